"""Hooks' scores, kept between runs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from media.made import write_video
from vitascope import storage
from vitascope.clips.analysis import hooked
from vitascope.clips.analysis.cut import Span
from vitascope.clips.analysis.derive import CutClip, Source
from vitascope.clips.settings import ClipsSettings
from vitascope.clips.stage import run
from vitascope.config import Settings

N_COLOURS = 8


def hook(log: Path, use: str = "score", **more: Any) -> dict[str, Any]:
    return {"use": use, "function": "tests.clips.hook_functions:redness", "options": {"log": str(log)}} | more


def settings(source: Path, folder: Path, filters: dict[str, Any], **clips: Any) -> Settings:
    lenient = {"still_share": {"use": "score"}, "contrast": {"use": "score"}} | filters
    ours = {"input": str(source), "duplicates": "keep", "filters": lenient, "durations_s": [0.5]}
    return Settings.model_validate({"run": {"folder": str(folder)}, "clips": ours | clips})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Videos of two sizes, each of one shade of red, with captions."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(N_COLOURS):
        size = (64, 96, 3) if i % 2 else (80, 80, 3)
        frames = [np.full(size, (30 * i, 60, 60), np.uint8)] * 10
        write_video(folder / f"{i}.mp4", frames)
        (folder / f"{i}.txt").write_text(f"shade {i}")
    return folder


def calls(log: Path) -> list[list[int]]:
    return [[int(n) for n in line.split()] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.usefixtures("in_process")
def test_other_thresholds_decode_nothing_and_other_options_do(source: Path, tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "run"
    first = run(settings(source, folder, {"text": hook(log)}))
    rows = storage.rows(f"{folder}/clips")
    assert first["hooked"] == sum(shape[0] for shape in calls(log)) == len(rows) == first["clips_ok"]
    expected = [30 * int(row["name"][0]) / 255 for row in rows]
    assert [row["text"] for row in rows] == pytest.approx(expected, abs=0.03)
    log.unlink()
    strict = run(settings(source, folder, {"text": hook(log, "drop", min=0.4)}))
    assert (strict["hooked"], calls(log)) == (0, [])
    kept = {row["name"] for row in storage.rows(f"{folder}/clips") if row["status"] == "ok"}
    assert kept == {f"{i}.mp4" for i in range(N_COLOURS) if 30 * i / 255 > 0.4}
    other = settings(source, folder, {"text": hook(log, options={"log": str(log), "scale": 2.0})})
    assert run(other)["hooked"] == len(rows)
    write_video(source / "9.mp4", [np.full((64, 96, 3), 200, np.uint8)] * 10)
    log.unlink()
    grown = run(other)
    assert grown["hooked"] == sum(shape[0] for shape in calls(log)) == grown["clips"] - len(rows)


@pytest.mark.usefixtures("in_process")
def test_what_is_no_hook_is_told_before_any_work(source: Path, tmp_path: Path) -> None:
    for wrong, message in (
        (
            {"function": "tests.clips.hook_functions:rednes"},
            r"clips\.filters\.text\.function: cannot load .*rednes",
        ),
        (
            {"options": {"log": "x", "lgo": "y"}},
            r"clips\.filters\.text\.options do not fit tests.clips.hook_functions:redness: .*lgo",
        ),
        ({"options": {}}, "missing a required argument: 'log'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(settings(source, tmp_path / "run", {"text": hook(tmp_path / "log") | wrong}))
    with pytest.raises(ValueError, match=r"clips\.duplicates_model: the model /no/model is no folder"):
        run(settings(source, tmp_path / "run", {}, duplicates="near", duplicates_model="/no/model"))
    assert not (tmp_path / "run").exists()


def clips_of(source: Path) -> list[CutClip]:
    clips = []
    for i in range(N_COLOURS):
        width, height = (96, 64) if i % 2 else (80, 80)
        uri = f"{source}/{i}.mp4"
        file = Source(str(i), str(i), uri, f"{i}.mp4", storage.version(uri), "video", "pyav")
        clips.append(CutClip(file, Span(0.0, 0.5, 5), 8.0, width, height))
    return clips


def clips_settings(filters: dict[str, Any]) -> ClipsSettings:
    return ClipsSettings.model_validate({"filters": filters})


def test_clips_of_several_files_share_a_call(source: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ours = clips_settings({"text": hook(log)})
    assert hooked.add(clips_of(source), str(tmp_path / "catalog"), "x/part-1.parquet", ours)[1] == N_COLOURS
    assert sorted(calls(log)) == [[4, 64, 96, 3], [4, 80, 80, 3]]


def test_batches_hold_each_clip_once_and_no_more_than_fit() -> None:
    sizes = [(64, 64)] * 70 + [(3840, 2160)] * 30 + [(8192, 8192)] * 2
    file = Source("", "", "", "", "", "video", "pyav")
    clips = [CutClip(file, Span(float(i), i + 1.0, 9), 8.0, w, h) for i, (w, h) in enumerate(sizes)]
    found = list(hooked.batches(clips))
    assert sorted(clip.span.start_s for batch in found for clip in batch) == list(range(102))
    assert all(len({(clip.width, clip.height) for clip in batch}) == 1 for batch in found)
    assert max(map(len, found)) == hooked.BATCH
    assert max(sum(clip.width * clip.height * 3 for clip in batch) for batch in found) <= 2**28


def test_what_was_committed_before_a_kill_is_not_scored_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, where = tmp_path / "log", (str(tmp_path / "catalog"), "x/part-1.parquet")
    ours = clips_settings({"text": hook(log)})
    monkeypatch.setattr(hooked, "_COMMITTED", 3)
    put_table, done = storage.put_table, []

    def killed(uri: str, table: pa.Table) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        put_table(uri, table)
        done.append(len(table))

    with monkeypatch.context() as patched:
        patched.setattr(storage, "put_table", killed)
        with pytest.raises(KeyboardInterrupt):
            hooked.add(clips_of(source), *where, ours)
    clips, n_decoded = hooked.add(clips_of(source), *where, ours)
    assert (done, n_decoded) == ([3, 3], N_COLOURS - 6)
    assert all(math.isfinite(clip.scores["text"]) for clip in clips)
    assert hooked.add(clips_of(source), *where, ours)[1] == 0


def test_a_clip_that_does_not_decode_is_dropped_and_one_without_a_score_passes(
    source: Path, tmp_path: Path
) -> None:
    (source / "3.mp4").write_bytes(b"no video")
    ours = clips_settings(
        {"watermark": {"use": "drop", "max": 0.5, "function": "tests.clips.hook_functions:nothing"}}
    )
    for n_decoded in (N_COLOURS, 1):  # the one that did not decode is tried again: it may have been too slow
        clips, n = hooked.add(clips_of(source), str(tmp_path / "catalog"), "x/part-1.parquet", ours)
        assert n == n_decoded
        assert [c.source.name for c in clips if c.outcome["reason"] == "unreadable"] == ["3.mp4"]
        assert not any(clip.scores for clip in clips)
