"""Which clips need captions, and which answers count."""

from pathlib import Path
from typing import Any

import pytest

from vitascope import storage
from vitascope.caption import answers
from vitascope.caption.settings import CaptionSettings
from vitascope.clips import table
from vitascope.ledger import Reason, Rejected


def settings(**more: Any) -> CaptionSettings:
    ours = {"source": "endpoint", "endpoint_model": "m", "prompts": {"caption": "?"}}
    return CaptionSettings.model_validate(ours | more)


def clip(clip_id: str, caption: str | None = None, reason: str | None = None) -> dict[str, Any]:
    return {"clip_id": clip_id, "caption": caption, "status": "dropped" if reason else "ok", "reason": reason}


CLIPS = [
    clip("has one", "a cat"),
    clip("lacks one", reason="no_caption"),
    clip("fine without", None),
    clip("too dark", None, "too_dark"),
    clip("dark, and has one", "night", "too_dark"),
]


def test_who_is_asked() -> None:
    def names(clips: str) -> list[str]:
        return [row["clip_id"] for row in answers.wanted(CLIPS, settings(clips=clips))]

    assert names("missing") == ["lacks one", "fine without"]
    assert names("all") == ["has one", "lacks one", "fine without"]


def test_a_plan_asks_everything_open_once_in_parts() -> None:
    clips = [{"clip_id": str(i)} for i in range(10)]
    done = [{"clip_id": "3", "field": f, "reason": None} for f in ("long", "short")]
    done += [{"clip_id": "4", "field": "long", "reason": Reason.CAPTION_REFUSED}]
    done += [{"clip_id": "5", "field": "long", "reason": Reason.CAPTION_FAILED}]
    todo = answers.still_to_ask(clips, done, ["long", "short"])
    parts = answers.plan(todo, settings(clips_per_part=4), n_existing=7)
    asked = [(c["clip_id"], f) for part in parts for c in part["clips"] for f in c["fields"]]
    expected = {(str(i), f) for i in range(10) for f in ("long", "short")}
    assert len(asked) == len(set(asked))
    assert set(asked) == expected - {("3", "long"), ("3", "short"), ("4", "long")}
    assert [len(part["clips"]) for part in parts] == [4, 4, 1]
    assert len({part["file"] for part in parts}) == 3
    assert parts == answers.plan(todo, settings(clips_per_part=4), n_existing=7)


def test_the_last_answer_to_the_present_question_counts(tmp_path: Path) -> None:
    now, before = settings(), settings(endpoint_options={"temperature": 1.0})

    def put(number: int, ours: CaptionSettings, outcome: str | Rejected) -> None:
        rows = answers.table({("a", "caption"): outcome}, ours)
        storage.put_table(f"{tmp_path}/part-{number:06d}-x.parquet", rows)

    assert table.captions(table.answers(str(tmp_path), now)) == {}
    put(0, now, Rejected(Reason.CAPTION_FAILED, "HTTP 500"))
    assert table.captions(table.answers(str(tmp_path), now)) == {}
    put(1, now, "a cat")
    put(2, before, "a dog")
    assert table.captions(table.answers(str(tmp_path), now)) == {"a": {"caption": "a cat"}}
    assert table.captions(table.answers(str(tmp_path), before)) == {"a": {"caption": "a dog"}}
    assert [row["status"] for row in table.answers(str(tmp_path), now)] == ["ok"]


@pytest.mark.parametrize(
    "more",
    [
        {"endpoint_model": "n"},
        {"prompts": {"caption": "!"}},
        {"frames": 5},
        {"max_side_px": 64},
        {"max_tokens": 9},
        {"refusal": ""},
        {"endpoint_options": {"seed": 1}},
        {"source": "folder", "folder": "/m"},
    ],
)
def test_what_shapes_an_answer_makes_another_question(more: dict[str, Any]) -> None:
    assert table.questions(settings(**more)) != table.questions(settings())


def test_what_only_decides_how_it_is_asked_does_not() -> None:
    other = settings(retries=1, timeout_s=1.0, in_flight=2, workers=3, clips_per_part=5, batch_size=3)
    assert table.questions(other) == table.questions(settings())


def test_a_models_captions_join_those_of_the_sidecars() -> None:
    clip = {"clip_id": "a", "captions": [("tags", "sofa"), ("long", "old")], "caption": "old", "reason": None}
    weights = {"long": 1.0, "short": 0.0, "tags": 0.0}
    changed = table.merged(clip, {"short": "a cat", "long": "a cat on a sofa"}, weights)
    assert list(changed["captions"].items()) == [
        ("long", "a cat on a sofa"),
        ("short", "a cat"),
        ("tags", "sofa"),
    ]
    assert changed["caption"] == "a cat on a sofa"
    drawn = table.merged(clip, {"short": "a cat"}, {"long": 0.0, "short": 0.0, "tags": 1.0})
    assert drawn["caption"] == "sofa"


def test_a_clip_that_lacked_only_a_caption_is_good_with_one_that_is_drawn() -> None:
    clip = {"clip_id": "a", "captions": None, "caption": None, "reason": "no_caption"}
    assert table.merged(clip, {"long": "a cat"}, {"long": 1.0})["status"] == "ok"
    kept = table.merged(clip, {"long": "a cat"}, {"long": 0.0, "short": 1.0})
    assert kept == {"captions": {"long": "a cat"}}
    dark = clip | {"reason": "filter_brightness"}
    assert "status" not in table.merged(dark, {"long": "a cat"}, {"long": 1.0})
