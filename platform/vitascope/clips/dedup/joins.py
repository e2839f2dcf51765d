"""Duplicates among clips, by hashing and joins.

Exact duplicates have equal content hashes. Near duplicates (compressed again, resized, cropped, re-timed,
mirrored or graded copies) are found from perceptual hashes in four steps, none of which compares all pairs:

    thin     keep the frames of a clip that differ from one another; drop featureless ones
    join     frames that agree in all bits of a mask, for any of ten masks: sort, then compare neighbours
    verify   clips that share such frames: mean distance from a clip's frames to the nearest of the other
    settle   in order of preference, a clip is kept or is the duplicate of a kept clip

The work grows with the number of clips and of their copies, not with the square.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vitascope.clips.dedup.hashing import FRAMES, WORDS, Measure
from vitascope.errors import Mistake

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SAME_SOURCE_BITS = 1.0  # within one source: a repeated still; a slow pan changes 2 bits or more in a second
HELD_OUT_FRACTION = 0.25  # of a clip's frames; so many in training would contaminate a held-out clip

_MIN_CONTRAST = 4.0  # of 255: darker or flatter frames all have the same hash
_NEW_BITS = 3  # a frame that differs in so many bits from the previous one kept is kept too
_TABLES = 10  # masks
_KEYS_PER_TABLE = 12  # of a clip, about; its copies have the same ones. A still has 6, all of them
_FRAME_BITS = 10  # a pair of frames further apart agrees by chance
_CROWD = 32  # frames of a bucket, and clips, that one of them is compared with at most
_VERIFIED_FRAMES = 8  # of a clip at most, evenly spaced
_CHUNK = 1 << 17  # items at a time, to fit a processor's cache


@dataclass(frozen=True)
class ClipHashes:
    """Perceptual hashes of clips in order of preference: the first of a set of duplicates is kept.

    Clip i has the frames offsets[i] to offsets[i + 1] of `hashes` (int64, F x 7, thinned), compared by
    `measure`. `source` numbers the file of a clip; clips of one source that overlap in time are never
    duplicates, because the settings asked for them.
    """

    hashes: Ints
    offsets: Ints
    source: Ints
    start_s: Floats
    end_s: Floats
    measure: Measure = FRAMES

    def __post_init__(self) -> None:
        n, (n_frames, _) = len(self), self.hashes.shape
        lengths = {len(self.source), len(self.start_s), len(self.end_s)}
        if lengths != {n} or self.offsets[0] != 0 or self.offsets[-1] != n_frames:
            raise ValueError(
                f"offsets of {n} clips from {self.offsets[0]} to {self.offsets[-1]} fit neither {n_frames} "
                f"frames nor {sorted(lengths)} sources and times; give n + 1 offsets, and n of the others"
            )
        if n_frames * self.measure.n_keyed > _LOW:
            raise Mistake(
                f"{n_frames:,} frames of {n:,} clips are too many for near duplicates, at most "
                f"{int(_LOW) // self.measure.n_keyed:,}; set clips.duplicates to exact"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def owner(self) -> npt.NDArray[np.uint32]:
        """The clip of each frame."""
        return np.repeat(np.arange(len(self), dtype=np.uint32), np.diff(self.offsets))

    def words(self, entries: Ints) -> Ints:
        """The hashes that the keys with these numbers are computed from."""
        return self.hashes[entries // self.measure.n_keyed, entries % self.measure.n_keyed]


@dataclass(frozen=True)
class Duplicates:
    """For each of n clips the duplicate kept in its place, or -1 (int64), and the distance in bits, or NaN.

    The counts describe the work. `n_unseen` pairs were not compared: in a crowded bucket (more than 32 frames
    with one key) a frame is compared only with the bucket's 32 most preferred ones, which usually include its
    duplicate, because all copies of a common intro are duplicates of the first. A clip is compared with the
    32 clips that share frames with it in most of the tables; held-out ones are not limited.
    """

    kept: Ints
    distance: Floats
    n_keys: int
    n_compared: int  # pairs of frames with one key
    n_candidates: int  # pairs of clips verified
    n_crowded: int  # buckets
    n_unseen: int  # pairs of frames in them


def exact_duplicates(contents: pa.Array) -> Ints:
    """For each item the first one with the same content hash, or -1; nulls have no duplicates."""
    codes = np.asarray(contents.dictionary_encode().indices.fill_null(-1), np.int64)
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    return np.where((codes < 0) | (first[group] == np.arange(len(codes))), -1, first[group])


def thin(hashes: Ints, contrast: np.ndarray) -> Ints:
    """The hashes (F', 7) of the frames of a clip (F, 7) that differ from the previous one kept.

    Frames whose contrast (F,), in levels of 255, is too low to distinguish them are dropped.
    """
    kept: list[int] = []
    whole = hashes[:, 0].tolist()
    for place in np.flatnonzero(contrast >= _MIN_CONTRAST).tolist():
        if not kept or (whole[place] ^ whole[kept[-1]]).bit_count() >= _NEW_BITS:
            kept.append(place)
    return hashes[kept]


def near_duplicates(
    clips: ClipHashes, max_bits: float, *, held_out: Bools | None = None, n_key_bits: int | None = None
) -> Duplicates:
    """The near duplicates among `clips`.

    A clip is a duplicate of a preferred one if the mean distance of its frames to the nearest frames of the
    other is at most `max_bits`, or SAME_SOURCE_BITS within one source. A part of another clip is its
    duplicate; a clip that shows more is not. No chains: a clip is a duplicate only of a kept clip.

    Args:
        held_out: (n,) the validation clips. They are preferred to all others, and a training clip is a
            duplicate if a quarter of its frames, or of the held-out clip's, appear in the other. So no kept
            training clip is a near copy of a held-out one, and validation stays complete.
        n_key_bits: number of bits in which frames must agree to be compared; by default `key_bits` of the
            number of clips. Fewer bits find more duplicates and compare more pairs.
    """
    held = np.zeros(len(clips), bool) if held_out is None else np.asarray(held_out)
    first, second, counts = _candidates(clips, held, n_key_bits or key_bits(len(clips)))
    rank = np.empty(len(clips), np.int64)
    rank[np.argsort(~held, kind="stable")] = np.arange(len(clips))
    swap = rank[first] > rank[second]
    kept, copy = np.where(swap, second, first), np.where(swap, first, second)
    distance = _distances(clips, kept, copy, held)
    close = distance <= np.where(clips.source[kept] == clips.source[copy], SAME_SOURCE_BITS, max_bits)
    duplicate, bits = _settle(kept[close], copy[close], distance[close], rank)
    return Duplicates(duplicate, bits, n_candidates=len(first), **counts)


def duplicate_detail(name: str, start_s: float, distance: float) -> str:
    """The ledger's detail of a dropped duplicate: the clip kept in its place."""
    return f"duplicate of {name} at {start_s:g} s, distance {distance:.1f} bits"


def key_bits(n_clips: int) -> int:
    """The bits of a key: enough to keep chance agreements about as many as clips; 28 for 10 million."""
    return min(max((n_clips - 1).bit_length() + 4, 16), 32)


def _candidates(clips: ClipHashes, held_out: Bools, n_key_bits: int) -> tuple[Ints, Ints, dict[str, int]]:
    """Pairs of clips (first < second) that share similar frames, and the counts of Duplicates."""
    pairs, n_tables = np.zeros(0, np.int64), np.zeros(0, np.int64)
    counts = dict.fromkeys(("n_keys", "n_compared", "n_crowded", "n_unseen"), 0)
    for mask in _masks(n_key_bits):
        keyed = _keyed(clips, mask)
        start = _bucket_starts(keyed)
        size = np.diff(np.append(np.flatnonzero(start == np.arange(len(start))), len(start)))
        crowded = size[size > _CROWD]
        counts["n_keys"] += len(keyed)
        counts["n_crowded"] += len(crowded)
        counts["n_unseen"] += int(((crowded - _CROWD) * (crowded - _CROWD - 1) // 2).sum())
        entry = (keyed & _LOW).astype(np.int64)
        words = clips.words(entry)  # contiguous: the words of a pair are near each other in memory
        alike = []
        for one, other in _bucket_pairs(start):
            counts["n_compared"] += len(one)
            near = _near(words[one], words[other], clips.measure.mirror)
            alike.append(_apart(clips, entry[one[near]], entry[other[near]]))
        new = _distinct(np.concatenate([pairs[:0], *alike]))
        pairs, n_tables = _summed(np.append(pairs, new), np.append(n_tables, np.ones_like(new)))
    first, second = pairs // len(clips), pairs % len(clips)
    likely = _first_of_each(second, n_tables, _CROWD) | (held_out[first] != held_out[second])
    return first[likely], second[likely], counts


def _summed(numbers: Ints, values: Ints) -> tuple[Ints, Ints]:
    """The distinct numbers in order, and the sum of each one's values."""
    order = np.argsort(numbers, kind="stable")
    begins = np.flatnonzero(np.diff(numbers[order], prepend=-1) > 0)
    return numbers[order][begins], np.add.reduceat(values[order], begins) if len(begins) else values[:0]


def _first_of_each(group: Ints, worth: Ints, n: int) -> Bools:
    """The `n` items of each group with the largest worth; ties keep their order."""
    order = np.lexsort((-worth, group))
    begins = np.flatnonzero(np.diff(group[order], prepend=-1) > 0)
    _, place = _ragged(np.diff(np.append(begins, len(group))))
    chosen = np.zeros(len(group), bool)
    chosen[order[place < n]] = True
    return chosen


def _masks(n_key_bits: int) -> list[np.int64]:
    """For each table the bits of a hash that form its keys; bit 0 of a frame's hash is constant."""
    rng = np.random.default_rng(0)
    chosen = [1 + rng.permutation(63)[:n_key_bits] for _ in range(_TABLES)]
    return [np.packbits(np.isin(np.arange(64), bits)).view(">i8").astype(np.int64)[0] for bits in chosen]


def _keyed(clips: ClipHashes, mask: np.int64) -> np.ndarray:
    """The table's entries in order (uint64): key in the high half, number of the word in the low half.

    One entry for each key and clip. A word and its mirror image have the same key. A clip with many words
    contributes only keys from a part of their range that shrinks with their number; its copies, with about
    as many words, contribute the same keys.
    """
    n_keyed, mirror = clips.measure.n_keyed, clips.measure.mirror
    share = np.minimum(_KEYS_PER_TABLE / np.maximum(np.diff(clips.offsets) * n_keyed, 1), 1)
    limit = (share * float(_LOW)).astype(np.uint64)
    parts = [np.zeros(0, np.uint64)]
    for begin in range(0, len(clips.hashes), _CHUNK // WORDS):
        frames = slice(begin, begin + _CHUNK // WORDS)
        some = clips.hashes[frames, :n_keyed]
        mixed = _mixed(np.minimum(some & mask, (some ^ mirror) & mask).view(np.uint64))
        taken = np.flatnonzero((mixed & _LOW) <= limit[clips.owner[frames], None])
        parts.append((mixed.ravel()[taken] & ~_LOW) | (taken + begin * n_keyed).astype(np.uint64))
    keyed = np.sort(np.concatenate(parts))
    holder, key = clips.owner[(keyed & _LOW).astype(np.int64) // n_keyed], keyed >> np.uint64(32)
    new = np.ones(len(keyed), bool)
    new[1:] = (key[1:] != key[:-1]) | (holder[1:] != holder[:-1])
    return keyed[new]


_LOW = np.uint64(0xFFFFFFFF)


def _mixed(keys: np.ndarray) -> np.ndarray:
    """Spreads keys over all 64 bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _bucket_starts(keyed: np.ndarray) -> Ints:
    """For each entry the index of the first entry with its key."""
    key = keyed >> np.uint64(32)
    new = np.ones(len(key), bool)
    new[1:] = key[1:] != key[:-1]
    return np.maximum.accumulate(np.where(new, np.arange(len(key)), 0))


def _bucket_pairs(start: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Pairs each entry with the first _CROWD of its bucket before it: all pairs in small buckets."""
    late = np.arange(len(start))
    for place in range(_CROWD):
        late = late[late - start[late] > place]
        for begin in range(0, len(late), _CHUNK):
            some = late[begin : begin + _CHUNK]
            yield start[some] + place, some


def _near(words: Ints, others: Ints, mirror: np.int64) -> Bools:
    """Whether two hashes, or a hash and the other's mirror image, differ in few bits."""
    differ = words ^ others
    return (np.bitwise_count(differ) <= _FRAME_BITS) | (np.bitwise_count(differ ^ mirror) <= _FRAME_BITS)


def _apart(clips: ClipHashes, entry: Ints, other: Ints) -> Ints:
    """The pairs of clips of these entries as first * n + second, without overlaps within one source."""
    a, b = (clips.owner[some // clips.measure.n_keyed].astype(np.int64) for some in (entry, other))
    same = clips.source[a] == clips.source[b]
    overlap = same & (clips.start_s[a] < clips.end_s[b]) & (clips.start_s[b] < clips.end_s[a])
    wanted = (a != b) & ~overlap
    a, b = a[wanted], b[wanted]
    return _distinct(np.minimum(a, b) * len(clips) + np.maximum(a, b))


def _distinct(numbers: Ints) -> Ints:
    """Distinct numbers in order; `np.unique` hashes them, which takes several times as long."""
    ordered = np.sort(numbers)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def _distances(clips: ClipHashes, kept: Ints, copy: Ints, held_out: Bools) -> Floats:
    """Distance of each copy from the kept clip in bits; between training and held out, the smaller way."""
    guarded = held_out[kept] & ~held_out[copy]
    distance = np.empty(len(kept))
    distance[~guarded] = _nearest(clips, copy[~guarded], kept[~guarded], fraction=1.0)
    ours, theirs = copy[guarded], kept[guarded]
    distance[guarded] = np.minimum(
        _nearest(clips, ours, theirs, fraction=HELD_OUT_FRACTION),
        _nearest(clips, theirs, ours, fraction=HELD_OUT_FRACTION),
    )
    return distance


def _nearest(clips: ClipHashes, of: Ints, to: Ints, fraction: float) -> Floats:
    """For each pair the mean distance of frames of `of` to the nearest of `to`, over the best `fraction`."""
    lengths = np.diff(clips.offsets)
    n_of, n_to = np.minimum(lengths[of], _VERIFIED_FRAMES), lengths[to]
    batch = np.cumsum(n_of * n_to) // _CHUNK
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(batch)) + 1, [len(of)]])
    result = np.empty(len(of))
    for begin, end in itertools.pairwise(bounds.tolist()):
        pair, place = _ragged(n_of[begin:end])
        one, other = of[begin:end][pair], to[begin:end][pair]
        frame = clips.offsets[one] + place * lengths[one] // n_of[begin:end][pair]
        row, column = _ragged(lengths[other])
        theirs = clips.hashes[clips.offsets[other[row]] + column]
        bits = clips.measure.apart(clips.hashes[frame[row]], theirs)
        nearest = np.minimum.reduceat(bits, np.flatnonzero(column == 0)) if len(bits) else bits
        best = nearest[np.lexsort((nearest, pair))]  # ascending within each pair, as `place`
        n_best = np.ceil(fraction * n_of[begin:end])
        result[begin:end] = np.bincount(pair, best * (place < n_best[pair]), end - begin) / n_best
    return result


def _ragged(lengths: Ints) -> tuple[Ints, Ints]:
    """For runs of these lengths, end to end: the number of the run and the index within it."""
    run = np.repeat(np.arange(len(lengths)), lengths)
    return run, np.arange(len(run)) - (np.cumsum(lengths) - lengths)[run]


def _settle(kept: Ints, copy: Ints, distance: Floats, rank: Ints) -> tuple[Ints, Floats]:
    """The nearest kept duplicate of every clip, and its distance. `kept` ranks before `copy` in each pair."""
    duplicate, bits = np.full(len(rank), -1), np.full(len(rank), np.nan)
    order = np.lexsort((rank[kept], distance, rank[copy]))
    for a, b, d in zip(kept[order].tolist(), copy[order].tolist(), distance[order].tolist(), strict=True):
        if duplicate[a] < 0 and duplicate[b] < 0:  # all pairs that could drop a come before those that drop b
            duplicate[b], bits[b] = a, d
    return duplicate, bits
