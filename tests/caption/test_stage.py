"""The caption stage on Ray, against a local endpoint: its requests, its results, and the cost of a kill."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from endpoint_server import Asked, Endpoint, Reply, fails, says, serving
from PIL import Image
from staged import clip, kill_workers, wait_for

from vitascope import config, storage
from vitascope.caption.answers import Unusable
from vitascope.caption.stage import run
from vitascope.clips import table
from vitascope.clips.table import CAPTIONS
from vitascope.config import Settings
from vitascope.records import OK, dropped

GREYS = list(range(20, 240, 20))


def put_clips(folder: Path, greys: list[int] = GREYS, captioned: tuple[int, ...] = ()) -> None:
    """A clip table of still images, each of one grey; those in `captioned` have a caption."""
    rows = []
    for grey in greys:
        picture = folder / f"{grey}.png"
        Image.new("RGB", (64, 48), (grey,) * 3).save(picture)
        caption = f"grey number {grey}" if grey in captioned else None
        outcome = OK if caption else dropped("no_caption", "no sidecar")
        rows.append(clip(str(grey), str(picture), caption) | outcome)
    storage.put_table(f"{folder}/run/clips/clips.parquet", pa.Table.from_pylist(rows))


def settings(folder: Path, server: Endpoint | None, **caption: Any) -> Settings:
    endpoint = {"source": "endpoint", "endpoint": server.url, "endpoint_model": "m"} if server else {}
    fast = {"timeout_s": 5.0, "retries": 1, "prompts": {"caption": "What?"}, "clips_per_part": 4}
    asked = fast | endpoint | caption
    fields = {"caption_fields": dict.fromkeys(asked["prompts"], 1.0)}
    return Settings.model_validate({"run": {"folder": f"{folder}/run"}, "caption": asked, "clips": fields})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    table = storage.read_table(f"{folder}/run/captions")
    assert table.schema.equals(CAPTIONS)
    return table.to_pylist()


def asked_of(server: Endpoint) -> Counter[int]:
    return Counter(asked.grey for asked in server.asked)


def grey_words(asked: Asked, _: int) -> Reply:
    return says(f"{asked.prompt} {asked.grey}")


@pytest.mark.usefixtures("in_process")
def test_clips_without_a_caption_are_asked_and_others_not(tmp_path: Path) -> None:
    put_clips(tmp_path, captioned=(40, 80))
    with serving(grey_words) as server:
        summary = run(settings(tmp_path, server))
    assert asked_of(server) == Counter(set(GREYS) - {40, 80})
    rows = {row["clip_id"]: row for row in rows_of(tmp_path)}
    assert set(rows) == {str(grey) for grey in GREYS} - {"40", "80"}
    assert all(row["caption"] == f"What? {row['clip_id']}" and row["model"] == "m" for row in rows.values())
    assert (summary["clips_asked"], summary["captions"], summary["dropped_by_reason"]) == (9, 9, {})
    assert storage.read_json(f"{tmp_path}/run/summaries/caption.json") == summary


@pytest.mark.usefixtures("in_process")
def test_all_clips_and_several_fields(tmp_path: Path) -> None:
    put_clips(tmp_path, captioned=(40, 80))
    with serving(grey_words) as server:
        ours = settings(tmp_path, server, clips="all", prompts={"long": "Describe.", "short": "Name."})
        run(ours)
    assert asked_of(server) == Counter(dict.fromkeys(GREYS, 2))
    found = table.captions(table.answers(f"{tmp_path}/run/captions", ours.caption))
    assert found["40"] == {"long": "Describe. 40", "short": "Name. 40"}
    off = settings(tmp_path, None).caption
    assert table.captions(table.answers(f"{tmp_path}/run/captions", off)) == {}


@pytest.mark.usefixtures("in_process")
def test_moods_of_the_endpoint_end_as_rows_and_failures_are_asked_again(tmp_path: Path) -> None:
    put_clips(tmp_path)
    (tmp_path / "40.png").write_bytes(b"no picture")
    moods: dict[int, Callable[[int], Reply]] = {
        60: lambda before: fails(429) if before == 0 else says("after a 429"),
        80: lambda _: says(None, refusal="No."),
        100: lambda _: Reply(raw=b"<html>", headers={"Content-Type": "text/html"}),
        120: lambda _: fails(500, "broken"),
        140: lambda before: Reply(wait_s=7) if before == 0 else says("after a hang"),
    }
    with serving(lambda a, before: moods[a.grey](before) if a.grey in moods else grey_words(a, 0)) as server:
        summary = run(settings(tmp_path, server, timeout_s=1.5))
        rows = {row["clip_id"]: row for row in rows_of(tmp_path)}
        server.asked.clear()
        again = run(settings(tmp_path, server, timeout_s=1.5))
    reasons = {grey: row["reason"] for grey, row in rows.items() if row["reason"]}
    failed = {"100": "caption_failed", "120": "caption_failed", "40": "source_changed"}
    assert reasons == failed | {"80": "caption_refused"}
    assert all(row["detail"] for row in rows.values() if row["reason"])
    assert [rows[grey]["caption"] for grey in ("60", "140")] == ["after a 429", "after a hang"]
    assert summary["dropped_by_reason"] == {"caption_failed": 2, "caption_refused": 1, "source_changed": 1}
    assert set(asked_of(server)) == {100, 120}
    assert {key: again[key] for key in ("captions", "dropped_by_reason")} == {
        key: summary[key] for key in ("captions", "dropped_by_reason")
    }


@pytest.mark.usefixtures("in_process")
def test_another_prompt_is_another_question(tmp_path: Path) -> None:
    put_clips(tmp_path, greys=[20, 40])
    with serving(grey_words) as server:
        first, second = (settings(tmp_path, server, prompts={"caption": p}) for p in ("What?", "Who?"))
        for ours in (first, second, first):
            run(ours)
    assert asked_of(server) == {20: 2, 40: 2}
    folder = f"{tmp_path}/run/captions"
    assert table.captions(table.answers(folder, first.caption))["20"] == {"caption": "What? 20"}
    assert table.captions(table.answers(folder, second.caption))["20"] == {"caption": "Who? 20"}


@pytest.mark.usefixtures("in_process")
def test_a_mistake_or_an_endpoint_that_is_gone_commits_nothing(tmp_path: Path) -> None:
    put_clips(tmp_path)
    with serving(lambda *_: fails(401, "bad key")) as server, pytest.raises(Unusable, match="bad key"):
        run(settings(tmp_path, server))
    with pytest.raises(ConnectionError, match="nothing answers at"):
        run(settings(tmp_path, server, retries=0))
    assert storage.list_files(f"{tmp_path}/run/captions") == []


@pytest.mark.usefixtures("in_process")
def test_off_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"caption\.source is off; set it"):
        run(settings(tmp_path, None))
    with pytest.raises(ValueError, match=r"caption\.endpoint_model is not set"):
        Settings.model_validate({"caption": {"source": "endpoint"}})


@pytest.mark.usefixtures("ray_cluster")
def test_killed_in_the_middle_no_more_than_the_open_part_is_asked_twice(tmp_path: Path) -> None:
    greys = list(range(10, 250, 10))
    put_clips(tmp_path, greys=greys)

    def slow(asked: Asked, _: int) -> Reply:
        reply = grey_words(asked, 0)
        reply.wait_s = 0.3
        return reply

    with serving(slow) as server:
        ours = settings(tmp_path, server, in_flight=1)
        config.save(ours)
        _run_and_kill(ours, until=lambda: len(server.asked) >= 10)
        wait_for(lambda: server.in_flight == 0)
        time.sleep(1)  # what the lost driver's worker still does
        parts = len(storage.list_files(f"{tmp_path}/run/captions"))
        first = asked_of(server)
        assert 2 <= parts <= 5, parts
        assert set(first.values()) == {1}
        run(ours)
    twice = {grey for grey, n in asked_of(server).items() if n == 2}
    assert max(asked_of(server).values()) <= 2
    assert len(twice) == len(first) - 4 * parts <= 4
    rows = rows_of(tmp_path)
    assert Counter(row["clip_id"] for row in rows) == Counter(map(str, greys))
    assert {row["caption"] for row in rows} == {f"What? {grey}" for grey in greys}


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_costs_its_part_at_most(tmp_path: Path) -> None:
    put_clips(tmp_path)
    killed: list[int] = []

    def decide(asked: Asked, _: int) -> Reply:
        if len(server.asked) == 6:
            killed.extend(kill_workers("ray::Map(_ask"))
        return grey_words(asked, 0)

    with serving(decide) as server:
        run(settings(tmp_path, server, in_flight=1))
    assert len(killed) == 1
    assert Counter(row["caption"] for row in rows_of(tmp_path)) == Counter(f"What? {g}" for g in GREYS)
    assert sum(asked_of(server).values()) <= len(GREYS) + 4


def _run_and_kill(ours: Settings, until: Callable[[], bool]) -> None:
    """Runs the stage in a process of its own, which gets kill −9."""
    code = (
        "import sys; from vitascope import config; from vitascope.caption.stage import run;"
        "run(config.load(sys.argv[1]))"
    )
    environment = os.environ | {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    driver = subprocess.Popen([sys.executable, "-c", code, ours.path(config.RESOLVED)], env=environment)
    try:
        wait_for(until)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
