"""What a table keeps: the sums agree with what the encode stage does clip by clip."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitascope import config
from vitascope.encode.bucket_facts import assign, of_near_native, of_table, one_size, suggest
from vitascope.encode.buckets import Limits as PlanLimits
from vitascope.encode.buckets import Patching, choose
from vitascope.encode.plan import make_tasks
from vitascope.encode.settings import STRIDES, EncodeSettings
from vitascope.encode.suggest import Clips, Limits, count_sizes, propose
from vitascope.ledger import Rejected
from vitascope.records import VideoSize, dropped

PATCHING = Patching(STRIDES["dct"], patch=2)
TABLE = ((1, 96, 96), (9, 96, 160), (9, 160, 96), (17, 64, 64), (33, 96, 160))


def some_clips(n: int = 500) -> Clips:
    draw = np.random.default_rng(3)
    return count_sizes(np.column_stack([draw.integers(1, 60, n), draw.integers(40, 400, (n, 2))]))


def chosen(size: list[int], settings: EncodeSettings) -> VideoSize | None:
    n_frames, height, width = size
    try:
        return choose(width, height, n_frames, settings, stride_px=16)[0]
    except Rejected:
        return None


def test_clips_are_assigned_as_the_encode_stage_assigns_them() -> None:
    clips, settings = some_clips(), EncodeSettings(buckets=TABLE)
    buckets = [VideoSize(*bucket) for bucket in TABLE]
    choice = assign(clips, buckets, settings.max_crop)
    wanted = [chosen(size, settings) for size in clips.sizes.tolist()]
    assert [None if i < 0 else buckets[i] for i in choice.bucket.tolist()] == wanted
    assert 0 < wanted.count(None) < len(wanted)
    assert ((choice.kept.worth > 0) == (choice.bucket >= 0)).all()


def test_near_native_is_judged_as_the_encode_stage_does_it() -> None:
    clips, settings = some_clips(), EncodeSettings(max_pixels=128 * 128, frame_counts=(5, 17, 33))
    sizes = [chosen(size, settings) for size in clips.sizes.tolist()]
    within = [s if s and PATCHING.n_tokens(s) <= 300 else None for s in sizes]
    for max_tokens, wanted in [(None, sizes), (300, within)]:
        totals = of_near_native(clips, settings, PATCHING, max_tokens)
        n_frames = [size.n_frames if size else 0 for size in wanted]
        got = [(size is not None) * n for size, n in zip(wanted, clips.count, strict=True)]
        assert totals.clips == pytest.approx(sum(got) / clips.count.sum())
        assert totals.seconds == pytest.approx(
            (clips.count * n_frames).sum() / (clips.count * clips.sizes[:, 0]).sum()
        )
        assert totals.sizes == len(set(wanted) - {None})


def test_a_mixed_table_keeps_more_than_one_size() -> None:
    landscape, portrait, square = (33, 720, 1280), (33, 1280, 720), (17, 480, 480)
    clips = count_sizes([landscape, portrait, square, (9, 304, 720)], [5, 4, 2, 1])
    limits = Limits(16_384, 6, PATCHING)
    table = of_table(clips, propose(clips, limits), limits.max_crop)
    single = of_table(clips, [one_size(clips, limits)], max_crop=1)
    assert table.clips == 1 > single.clips
    assert table.pixels > 1.2 * single.pixels
    assert table.pixel_seconds > single.pixel_seconds


def test_what_fits_whole_is_kept_whole() -> None:
    clips = count_sizes([(9, 96, 160)])
    totals = of_table(clips, [VideoSize(9, 96, 160)], 0.3)
    assert (totals.clips, totals.pixels, totals.seconds, totals.pixel_seconds) == (1, 1, 1, 1)
    half = of_table(clips, [VideoSize(5, 48, 80)], 0.3)
    assert (half.pixels, half.seconds) == (0.25, pytest.approx(5 / 9))


@pytest.fixture
def run(tmp_path: Path, clip_row: Callable, put_clips: Callable) -> str:
    """A run with a clip table."""
    sizes = [(1280, 720, 33), (720, 1280, 33), (640, 272, 9), (640, 480, 9), (30, 30, 9)]
    rows: list[dict[str, Any]] = [
        clip_row(f"{i}.mp4", width=w, height=h, n_frames=n) for i, (w, h, n) in enumerate(3 * sizes)
    ]
    put_clips(str(tmp_path), [*rows, clip_row("bad.mp4", **dropped("too_short", ""))])
    return str(tmp_path)


def test_the_suggested_toml_is_what_the_encode_stage_takes(
    run: str, tmp_path: Path, clip_row: Callable
) -> None:
    set_to = [f'run.folder="{run}"', "feed.token_budget=100"]
    suggestion = suggest(config.load(None, set_to), max_tokens=5000, count=4)
    (tmp_path / "table.toml").write_text(suggestion.toml)
    settings = config.load(str(tmp_path / "table.toml"))
    assert [VideoSize(*bucket) for bucket in settings.encode.buckets or ()] == list(suggestion.buckets)
    assert settings.feed.token_budget <= 5000  # raised, so that a pack holds the largest
    limits = PlanLimits.of(settings)
    tasks, _ = make_tasks([clip_row("a.mp4", width=1280, height=720, n_frames=33)], settings.encode, limits)
    assert tasks[0].size in suggestion.buckets


def test_every_clip_is_in_a_line(run: str) -> None:
    settings = config.load(None, [f'run.folder="{run}"', "encode.buckets=[[9, 96, 160]]"])
    text = "\n".join(suggest(settings, count=3).lines)
    assert text.startswith("15 clips of 5 sizes; at most 16,384 tokens")
    assert "6  40.0%  every bucket would upscale it" in text
    for row in ("these 3 buckets", "one size", "encode.buckets as set", "near native, any tokens"):
        assert row in text
