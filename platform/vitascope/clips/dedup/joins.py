"""Twins among clips, by hashing and joins.

Exact twins have equal content hashes. Near twins (compressed again, resized, cropped, re-timed, mirrored or
graded copies) are found from hashes of what a clip looks like, in four steps, none of which looks at all
pairs:

    thin     a clip's frames that look different from one another; featureless ones left out
    join     frames that agree in all of some bits, in any of ten choices: sort, then compare neighbours
    verify   clips with such frames: the mean distance of a clip's frames from the other's nearest ones
    settle   in the order of preference a clip is kept, or is the twin of a clip that is kept

The work grows with the number of clips and of copies among them, not with their square.
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

SAME_SOURCE_BITS = 1.0  # within one source: a still repeated; a slow pan moves by 2 or more in a second
HELD_OUT_SHARE = 0.25  # of a clip's frames that also in training would spoil a held-out clip

_MIN_CONTRAST = 4.0  # of 255: frames below all look alike
_NEW_BITS = 3  # a frame that differs in so many bits from the last one kept is kept too
_TABLES = 10  # choices of bits
_KEYS_PER_TABLE = 12  # of a clip, about; the same ones in its copies. A still has 6: all
_FRAME_BITS = 10  # a pair of frames further apart is agreement by chance
_CROWD = 32  # frames of a bucket that each of the bucket is compared with, and clips that a clip is
_VERIFIED_FRAMES = 8  # of a clip, at most, evenly picked
_CHUNK = 1 << 17  # items at a time: they fit a processor's cache


@dataclass(frozen=True)
class ClipHashes:
    """What clips look like, in order of preference: of twins the first is kept.

    Clip i has the frames offsets[i] to offsets[i + 1] of `hashes` (int64, F x 7, thinned), which are compared
    by `measure`. `source` numbers the file a clip is from; clips of one source that overlap in time are never
    twins, since they were asked for.
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
                f"{n_frames:,} frames of {n:,} clips are too many to find twins among at once, which is done "
                f"for {int(_LOW) // self.measure.n_keyed:,}; set clips.duplicates to exact"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def owner(self) -> npt.NDArray[np.uint32]:
        """The clip of each frame."""
        return np.repeat(np.arange(len(self), dtype=np.uint32), np.diff(self.offsets))

    def words(self, entries: Ints) -> Ints:
        """The hashes that keys are of, by their number."""
        return self.hashes[entries // self.measure.n_keyed, entries % self.measure.n_keyed]


@dataclass(frozen=True)
class Twins:
    """What became of n clips: the twin that is kept, or -1 (int64), and the distance in bits, or NaN.

    The counts say what was looked at. `n_unseen` pairs were not: in a crowded bucket (more than 32 frames
    with one key) a frame is compared with the bucket's 32 most preferred only, of which its twin usually is
    one, as all copies of a much-used intro are twins of the first. And of the clips that have like frames,
    held-out ones apart, a clip is compared with the 32 that agree in most of the tables.
    """

    twin: Ints
    distance: Floats
    n_keys: int
    n_compared: int  # pairs of frames with one key
    n_candidates: int  # pairs of clips verified
    n_crowded: int  # buckets
    n_unseen: int  # pairs of frames in them


def exact_twins(contents: pa.Array) -> Ints:
    """For each item -1, or the first one with the same content hash; nulls have no twins."""
    codes = np.asarray(contents.dictionary_encode().indices.fill_null(-1), np.int64)
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    return np.where((codes < 0) | (first[group] == np.arange(len(codes))), -1, first[group])


def thin(hashes: Ints, contrast: np.ndarray) -> Ints:
    """The hashes (F', 7) of those of a clip's frames (F, 7) that do not look like the last one kept.

    Frames whose contrast (F,), in levels of 255, is too low to tell them apart are left out.
    """
    kept: list[int] = []
    whole = hashes[:, 0].tolist()
    for place in np.flatnonzero(contrast >= _MIN_CONTRAST).tolist():
        if not kept or (whole[place] ^ whole[kept[-1]]).bit_count() >= _NEW_BITS:
            kept.append(place)
    return hashes[kept]


def near_twins(
    clips: ClipHashes, *, max_bits: float, held_out: Bools | None = None, n_key_bits: int | None = None
) -> Twins:
    """The near twins among `clips`.

    A clip is a twin of a preferred one if its frames lie within a mean of `max_bits` of the other's,
    wherever in it; within one source, of SAME_SOURCE_BITS. What is only a part of another clip is its twin;
    what holds more is not. No chains: a clip is a twin only of one that is kept, at the distance given.

    Args:
        held_out: (n,) the validation clips. They are preferred to all others, and a training clip is a twin
            already if a quarter of its frames, or of the held-out clip's, are in the other. So no kept
            training clip is a near copy of a held-out one, and validation stays whole.
        n_key_bits: in how many bits frames must agree to be compared; `key_bits` of the number of clips
            if not given. Fewer find more and compare more.
    """
    held = np.zeros(len(clips), bool) if held_out is None else np.asarray(held_out)
    first, second, counts = _candidates(clips, held, n_key_bits or key_bits(len(clips)))
    rank = np.empty(len(clips), np.int64)
    rank[np.argsort(~held, kind="stable")] = np.arange(len(clips))
    swap = rank[first] > rank[second]
    kept, copy = np.where(swap, second, first), np.where(swap, first, second)
    distance = _distances(clips, kept, copy, held)
    close = distance <= np.where(clips.source[kept] == clips.source[copy], SAME_SOURCE_BITS, max_bits)
    twin, bits = _settle(kept[close], copy[close], distance[close], rank)
    return Twins(twin, bits, n_candidates=len(first), **counts)


def twin_detail(name: str, start_s: float, distance: float) -> str:
    """What the ledger says of a dropped twin: the clip that is kept."""
    return f"twin of {name} at {start_s:g} s, distance {distance:.1f} bits"


def key_bits(n_clips: int) -> int:
    """The bits of a key: so many that chance agreements stay about as many as clips; 28 for 10 million."""
    return min(max((n_clips - 1).bit_length() + 4, 16), 32)


def _candidates(clips: ClipHashes, held_out: Bools, n_key_bits: int) -> tuple[Ints, Ints, dict[str, int]]:
    """Pairs of clips (first < second) that have like frames, and the counts of Twins."""
    found, n_tables = np.zeros(0, np.int64), np.zeros(0, np.int64)
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
        words = clips.words(entry)  # side by side: those of a pair are near each other in memory
        alike = []
        for one, other in _bucket_pairs(start):
            counts["n_compared"] += len(one)
            near = _near(words[one], words[other], clips.measure.mirror)
            alike.append(_apart(clips, entry[one[near]], entry[other[near]]))
        new = _distinct(np.concatenate([found[:0], *alike]))
        found, n_tables = _summed(np.append(found, new), np.append(n_tables, np.ones_like(new)))
    first, second = found // len(clips), found % len(clips)
    likely = _first_of_each(second, n_tables, _CROWD) | (held_out[first] != held_out[second])
    return first[likely], second[likely], counts


def _summed(numbers: Ints, values: Ints) -> tuple[Ints, Ints]:
    """The distinct numbers in order, and the sum of each one's values."""
    order = np.argsort(numbers, kind="stable")
    begins = np.flatnonzero(np.diff(numbers[order], prepend=-1) > 0)
    return numbers[order][begins], np.add.reduceat(values[order], begins) if len(begins) else values[:0]


def _first_of_each(group: Ints, worth: Ints, n: int) -> Bools:
    """Of each group the `n` that are worth most; of several worth the same, those that stand first."""
    order = np.lexsort((-worth, group))
    begins = np.flatnonzero(np.diff(group[order], prepend=-1) > 0)
    _, place = _ragged(np.diff(np.append(begins, len(group))))
    chosen = np.zeros(len(group), bool)
    chosen[order[place < n]] = True
    return chosen


def _masks(n_key_bits: int) -> list[np.int64]:
    """For each table the bits of a hash that its keys are of; bit 0 of a frame's says nothing."""
    rng = np.random.default_rng(0)
    chosen = [1 + rng.permutation(63)[:n_key_bits] for _ in range(_TABLES)]
    return [np.packbits(np.isin(np.arange(64), bits)).view(">i8").astype(np.int64)[0] for bits in chosen]


def _keyed(clips: ClipHashes, mask: np.int64) -> np.ndarray:
    """The table's entries in order, key above and number of the word below (uint64); one a key and clip.

    The key is the same for a word and its mirror image. A clip with many words gives only keys from a part
    of their range that shrinks with their number: its copies, with about as many, give the same ones.
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
    """For each entry the index of the first one with its key."""
    key = keyed >> np.uint64(32)
    new = np.ones(len(key), bool)
    new[1:] = key[1:] != key[:-1]
    return np.maximum.accumulate(np.where(new, np.arange(len(key)), 0))


def _bucket_pairs(start: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Each entry with the first _CROWD of its bucket that stand before it: in small buckets all pairs."""
    late = np.arange(len(start))
    for place in range(_CROWD):
        late = late[late - start[late] > place]
        for begin in range(0, len(late), _CHUNK):
            some = late[begin : begin + _CHUNK]
            yield start[some] + place, some


def _near(words: Ints, others: Ints, mirror: np.int64) -> Bools:
    """Whether two hashes, or one and the other's in a mirror, differ in few bits."""
    differ = words ^ others
    return (np.bitwise_count(differ) <= _FRAME_BITS) | (np.bitwise_count(differ ^ mirror) <= _FRAME_BITS)


def _apart(clips: ClipHashes, entry: Ints, other: Ints) -> Ints:
    """The pairs of clips, first * n + second, of these entries; not of one source if they overlap."""
    a, b = (clips.owner[some // clips.measure.n_keyed].astype(np.int64) for some in (entry, other))
    same = clips.source[a] == clips.source[b]
    overlap = same & (clips.start_s[a] < clips.end_s[b]) & (clips.start_s[b] < clips.end_s[a])
    wanted = (a != b) & ~overlap
    a, b = a[wanted], b[wanted]
    return _distinct(np.minimum(a, b) * len(clips) + np.maximum(a, b))


def _distinct(numbers: Ints) -> Ints:
    """As `np.unique` gives them, which hashes, and takes several times as long for many."""
    ordered = np.sort(numbers)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def _distances(clips: ClipHashes, kept: Ints, copy: Ints, held_out: Bools) -> Floats:
    """How far each copy is from what is kept, in bits; between training and held out, from either side."""
    guarded = held_out[kept] & ~held_out[copy]
    distance = np.empty(len(kept))
    distance[~guarded] = _nearest(clips, copy[~guarded], kept[~guarded], share=1.0)
    ours, theirs = copy[guarded], kept[guarded]
    distance[guarded] = np.minimum(
        _nearest(clips, ours, theirs, share=HELD_OUT_SHARE),
        _nearest(clips, theirs, ours, share=HELD_OUT_SHARE),
    )
    return distance


def _nearest(clips: ClipHashes, of: Ints, to: Ints, share: float) -> Floats:
    """For each pair the mean distance of frames of `of` to their nearest of `to`, over the best `share`."""
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
        best = nearest[np.lexsort((nearest, pair))]  # in each pair ascending, beside `place`
        n_best = np.ceil(share * n_of[begin:end])
        result[begin:end] = np.bincount(pair, best * (place < n_best[pair]), end - begin) / n_best
    return result


def _ragged(lengths: Ints) -> tuple[Ints, Ints]:
    """For runs of these lengths, end to end: the number of the run, and the place in it."""
    run = np.repeat(np.arange(len(lengths)), lengths)
    return run, np.arange(len(run)) - (np.cumsum(lengths) - lengths)[run]


def _settle(kept: Ints, copy: Ints, distance: Floats, rank: Ints) -> tuple[Ints, Floats]:
    """The nearest kept twin of every clip, and its distance. Pairs are kept-before-copy by rank."""
    twin, bits = np.full(len(rank), -1), np.full(len(rank), np.nan)
    order = np.lexsort((rank[kept], distance, rank[copy]))
    for a, b, d in zip(kept[order].tolist(), copy[order].tolist(), distance[order].tolist(), strict=True):
        if twin[a] < 0 and twin[b] < 0:  # all pairs that could drop a stand before those that drop b
            twin[b], bits[b] = a, d
    return twin, bits
