"""Suggested buckets: within the limits, the same each time, and worth their number."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vitascope import storage
from vitascope.encode import suggest
from vitascope.encode.buckets import Patching, kept
from vitascope.encode.settings import STRIDES
from vitascope.encode.suggest import (
    Clips,
    Limits,
    candidates,
    clips_of,
    count_sizes,
    merged,
    propose,
    select,
    worths,
)
from vitascope.records import VideoSize

PATCHING = Patching(STRIDES["dct"], patch=2)


def mixed(n: int, seed: int = 0, odd: float = 0.2) -> Clips:
    """Clips of the usual sizes and of odd ones, of 1 to 200 frames."""
    draw = np.random.default_rng(seed)
    usual = [(720, 1280), (1920, 1080), (1080, 1920), (480, 640), (480, 480), (804, 1920), (2160, 3840)]
    sides = np.array(usual)[draw.integers(len(usual), size=n)]
    strange = np.exp(draw.uniform(np.log(60), np.log(2500), (n, 2))).astype(int)
    sides = np.where(draw.random((n, 1)) < odd, strange, sides)
    frames = np.exp(draw.uniform(0, np.log(200), n)).astype(int)
    return count_sizes(np.column_stack([frames, sides]))


def worth_of(clips: Clips, buckets: list[VideoSize], max_crop: float = 0.3) -> np.ndarray:
    """(N,) what the best of `buckets` is worth to each size of clip."""
    table = np.array([(b.n_frames, b.height, b.width) for b in buckets])
    return kept(clips.sizes[:, None], table, max_crop).worth.max(axis=1)


def mean_worth(clips: Clips, buckets: list[VideoSize]) -> float:
    """Mean over clips of their worth."""
    return float((worth_of(clips, buckets) * clips.count).sum() / clips.count.sum())


@pytest.mark.parametrize(("max_tokens", "patch"), [(300, 2), (4096, 1), (16_384, 2), (40_000, 4)])
def test_every_bucket_keeps_to_the_limits(max_tokens: int, patch: int) -> None:
    limits = Limits(max_tokens, 9, Patching(STRIDES["dct"], patch))
    buckets = propose(mixed(1000), limits)
    assert 1 < len(buckets) <= 9
    assert len(set(buckets)) == len(buckets)
    for bucket in buckets:
        assert limits.patching.n_tokens(bucket) <= max_tokens  # which also wants 1 + 4k frames
        assert bucket.height % limits.patching.side_px == bucket.width % limits.patching.side_px == 0


def test_the_same_clips_in_any_order_give_the_same_table() -> None:
    clips = mixed(1000)
    rows = np.repeat(clips.sizes, clips.count, axis=0)
    shuffled = np.random.default_rng(1).permutation(rows)
    assert propose(clips, Limits(8192, 6, PATCHING)) == propose(
        count_sizes(shuffled), Limits(8192, 6, PATCHING)
    )


@pytest.mark.parametrize("seed", range(3))
def test_more_buckets_are_never_worth_less(seed: int) -> None:
    """In the objective, of which every table with one bucket more starts from the one before."""
    clips = mixed(400, seed)
    tried = candidates(clips, Limits(8192, 1, PATCHING))
    worth = worths(clips, tried, 0.3)
    held = [float(worth[:, select(worth, count)].max(axis=1).sum()) for count in range(1, 8)]
    assert (np.diff(held) >= 0).all()
    assert held[-1] > 1.3 * held[0]
    assert held[-1] <= 1.0001


def test_clips_of_one_size_are_kept_whole() -> None:
    for size in ((17, 480, 832), (1, 720, 1280), (33, 256, 256), (1, 16, 16)):
        clips = count_sizes([size] * 5)
        assert propose(clips, Limits(50_000, 4, PATCHING)) == [VideoSize(*size)]


def test_a_clip_above_the_limit_gives_up_as_much_of_its_pixels_as_of_its_seconds() -> None:
    clips = count_sizes([(481, 1088, 1920)])
    (bucket,) = propose(clips, Limits(32_768, 1, PATCHING))
    keeps = kept(clips.sizes[0], np.array([bucket.n_frames, bucket.height, bucket.width]), 0.3)
    assert PATCHING.n_tokens(bucket) > 0.85 * 32_768
    assert 0.5 < keeps.pixels / keeps.seconds < 2


def test_two_aspects_and_two_lengths_each_get_their_bucket() -> None:
    native = [
        VideoSize(5, 256, 448),
        VideoSize(5, 448, 256),
        VideoSize(33, 256, 448),
        VideoSize(33, 448, 256),
    ]
    clips = count_sizes([(b.n_frames, b.height, b.width) for b in native], [100, 1, 10, 1])
    assert propose(clips, Limits(100_000, 10, PATCHING)) == sorted(native)


def test_binning_loses_little(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, limits = mixed(2000, odd=0.3), Limits(16_384, 6, PATCHING)
    exact = propose(clips, limits)
    assert len(clips.sizes) < suggest.MAX_BINS  # so that was a search over the clips themselves
    monkeypatch.setattr(suggest, "MAX_BINS", len(clips.sizes) // 4)
    assert mean_worth(clips, propose(clips, limits)) > 0.9 * mean_worth(clips, exact)


def test_no_fitting_clip_and_no_clip_are_said() -> None:
    with pytest.raises(ValueError, match="none of 1 usable clips has a bucket of 64 tokens"):
        propose(count_sizes([(5, 12, 12)]), Limits(64, 4, PATCHING))
    with pytest.raises(ValueError, match=r"no usable clip .* vitascope data shows what was dropped"):
        propose(count_sizes(np.empty((0, 3))), Limits(64, 4, PATCHING))


@pytest.mark.parametrize(("max_tokens", "count"), [(0, 1), (1, 0)])
def test_limits_of_nothing_are_refused(max_tokens: int, count: int) -> None:
    with pytest.raises(ValueError, match="1 token and 1 bucket"):
        Limits(max_tokens, count, PATCHING)


def test_sizes_are_counted_and_merged() -> None:
    one = count_sizes([(5, 100, 200), (5, 100, 200), (1, 300, 7)])
    assert one.sizes.tolist() == [[1, 300, 7], [5, 100, 200]]
    assert one.count.tolist() == [1, 2]
    both = merged([one, count_sizes([(5, 100, 200), (9, 1, 1)])])
    assert both.sizes.tolist() == [[1, 300, 7], [5, 100, 200], [9, 1, 1]]
    assert both.count.tolist() == [1, 3, 1]
    with pytest.raises(ValueError, match="1 px or more"):
        count_sizes([(1, 0, 10)])


def test_the_usable_clips_of_a_folder_of_tables_are_read(tmp_path: Path) -> None:
    for part, status in enumerate(["ok", "dropped", "ok"]):
        rows = [{"n_frames": 9, "height": 96, "width": 160, "status": s} for s in ("ok", status)]
        storage.put_table(str(tmp_path / f"{part}.parquet"), pa.Table.from_pylist(rows))
    clips = clips_of(str(tmp_path))
    assert (clips.sizes.tolist(), clips.count.tolist()) == ([[9, 96, 160]], [5])
    with pytest.raises(FileNotFoundError, match="has the stage"):
        clips_of(str(tmp_path / "nothing"))
