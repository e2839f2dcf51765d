"""The flow goes on with the first stage that is unfinished, and with what follows it."""

from pathlib import Path

import pytest

from vitascope import config, flow
from vitascope.config import Settings

STAGES = ["clips", "encode", "data", "train", "generate", "evaluate", "report"]


def settings(folder: Path, *overrides: str) -> Settings:
    return config.load(None, [f"run.folder={folder}", *overrides])


def marks(of: Settings) -> dict[str, str]:
    return {stage: flow.digest(of, stage) for stage in flow.STAGES}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ("clips.fps=12", "clips"),
        ("encode.max_text_tokens=64", "encode"),
        ("feed.token_budget=4096", "encode"),
        ("train.lr=3e-4", "train"),
        ("generate.steps=3", "generate"),
        ("evaluate.timesteps=[0.5]", "evaluate"),
    ],
)
def test_a_change_begins_at_the_stage_that_it_decides(tmp_path: Path, change: str, first: str) -> None:
    finished = marks(settings(tmp_path))
    todo = flow.unfinished(settings(tmp_path, change), finished)
    assert todo == STAGES[STAGES.index(first) :]


def test_captions_of_a_model_are_a_stage_where_they_are_asked_for(tmp_path: Path) -> None:
    asked = settings(tmp_path, "caption.source=endpoint", "caption.endpoint_model=m")
    assert flow.unfinished(asked, {}) == ["clips", "caption", *STAGES[1:]]
    assert flow.unfinished(asked, marks(settings(tmp_path)))[0] == "caption"


def test_where_the_work_runs_changes_nothing(tmp_path: Path) -> None:
    assert flow.unfinished(settings(tmp_path, "cluster.local_cpus=12"), marks(settings(tmp_path))) == []


def test_a_stage_can_be_named_to_begin_with(tmp_path: Path) -> None:
    own = settings(tmp_path)
    assert flow.unfinished(own, marks(own), "generate") == ["generate", "evaluate", "report"]
    assert flow.unfinished(own, {}, "generate") == STAGES  # what it needs is not there
    with pytest.raises(ValueError, match="no stage 'trian'; the flow has clips, caption, encode"):
        flow.unfinished(own, {}, "trian")


def test_a_flow_that_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    own, done = settings(tmp_path), []

    def breaks(stage: str) -> None:
        if stage == "train":
            raise RuntimeError("no nodes")
        done.append(stage)

    with pytest.raises(RuntimeError, match="no nodes"):
        flow.run(own, breaks)
    assert flow.run(own, done.append) == ["train", "generate", "evaluate", "report"]
    assert done == STAGES
    assert flow.run(own, done.append) == []


def test_a_stage_done_again_makes_what_follows_unfinished(tmp_path: Path) -> None:
    own = settings(tmp_path)
    flow.run(own, lambda _: None)

    def breaks(stage: str) -> None:
        raise RuntimeError(stage)

    with pytest.raises(RuntimeError, match="encode"):
        flow.run(own, breaks, "encode")
    assert flow.run(own, lambda _: None) == STAGES[1:]
