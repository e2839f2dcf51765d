"""Twins among clips, by hashing and joins.

Exact twins have equal content hashes. Near twins (compressed again, resized, cropped, re-timed, mirrored or
graded copies) are found from the frames' hashes (`hashing.copy_hashes`) in four steps, none of which
looks at all pairs:

    thin     a clip's frames that look different from one another; featureless ones left out
    join     frames that agree in all of some bits, in any of ten choices: sort, then compare neighbours
    verify   clips with such frames: the mean distance of a clip's frames from the other's nearest ones
    settle   in the order of preference a clip is kept, or is the twin of a clip that is kept

The work grows with the number of clips and of copies among them, not with their square.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vitascope.clips.hashing import N_LUMA, mirrored, mirrored_luma

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MAX_BITS = 6.0  # mean distance up to which clips are twins; 96 % of measured copies lie within
SAME_SOURCE_BITS = 1.0  # within one source: a still repeated; a slow pan moves by 2 or more in a second
HELD_OUT_SHARE = 0.25  # of a clip's frames that also in training would spoil a held-out clip

_NEW_BITS = 3  # a frame that differs in so many bits from the last one kept is kept too
_TABLES = 10  # choices of bits
_KEYS_PER_TABLE = 12  # of a clip, about; the same ones in its copies. A still has 6: all
_FRAME_BITS = 10  # a pair of frames further apart is agreement by chance
_CROWD = 32  # frames of a bucket that every other one of the bucket is compared with
_VERIFIED_FRAMES = 8  # of a clip, at most, evenly picked
_CHUNK = 1 << 17  # items at a time: they fit a processor's cache


@dataclass(frozen=True)
class ClipHashes:
    """Hashes of clips' frames, in order of preference: of twins the first is kept.

    Clip i has the frames offsets[i] to offsets[i + 1] of `hashes` (int64, F x 7 of `copy_hashes`). `source`
    numbers the file a clip is from; clips of one source that overlap in time are never twins, since they were
    asked for.
    """

    hashes: Ints
    offsets: Ints
    source: Ints
    start_s: Floats
    end_s: Floats

    def __post_init__(self) -> None:
        n, (n_frames, _) = len(self), self.hashes.shape
        lengths = {len(self.source), len(self.start_s), len(self.end_s)}
        if lengths != {n} or self.offsets[0] != 0 or self.offsets[-1] != n_frames:
            raise ValueError(
                f"offsets of {n} clips from {self.offsets[0]} to {self.offsets[-1]} fit neither {n_frames} "
                f"frames nor {sorted(lengths)} sources and times; give n + 1 offsets, and n of the others"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Twins:
    """What became of n clips: the twin that is kept, or -1 (int64), and the distance in bits, or NaN.

    The counts say what was looked at. `n_unseen` pairs were not: in a crowded bucket (more than 32 frames
    with one key) a frame is compared with the bucket's 32 most preferred only, of which its twin usually is
    one, as all copies of a much-used intro are twins of the first.
    """

    twin: Ints
    distance: Floats
    n_featureless: int  # clips without a frame to compare
    n_keys: int
    n_candidates: int  # pairs of clips verified
    n_crowded: int  # buckets
    n_unseen: int  # pairs of frames in them


def exact_twins(contents: pa.Array) -> Ints:
    """For each item -1, or the first one with the same content hash; nulls have no twins."""
    codes = np.asarray(contents.dictionary_encode().indices.fill_null(-1), np.int64)
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    return np.where((codes < 0) | (first[group] == np.arange(len(codes))), -1, first[group])


def near_twins(
    clips: ClipHashes,
    contrast: np.ndarray,
    *,
    held_out: Bools | None = None,
    min_contrast: float = 4.0,
    n_key_bits: int | None = None,
) -> Twins:
    """The near twins among `clips`, the same whatever parts they came in.

    A clip is a twin of a preferred one where its frames lie within a mean of MAX_BITS of the other's,
    wherever in it; within one source, of SAME_SOURCE_BITS. What is only a part of another clip is its twin;
    what holds more is not. No chains: a clip is a twin only of one that is kept, at the distance given.

    Args:
        contrast: (F,) of each frame; those below `min_contrast` all look alike, and are left out.
        held_out: (n,) the validation clips. They are preferred to all others, and a training clip is a twin
            already where a quarter of its frames, or of the held-out clip's, are in the other. So no kept
            training clip is a near copy of a held-out one, and validation stays whole.
        n_key_bits: in how many bits frames must agree to be compared; `key_bits` of the number of clips
            where not given. Fewer find more and compare more.
    """
    textured = np.asarray(contrast) >= min_contrast
    clips = thin(clips, textured)
    held = np.zeros(len(clips), bool) if held_out is None else np.asarray(held_out)
    first, second, counts = _candidates(clips, n_key_bits or key_bits(len(clips)))
    rank = np.empty(len(clips), np.int64)
    rank[np.argsort(~held, kind="stable")] = np.arange(len(clips))
    swap = rank[first] > rank[second]
    kept, copy = np.where(swap, second, first), np.where(swap, first, second)
    distance = _distances(clips, kept, copy, held)
    limit = np.where(clips.source[kept] == clips.source[copy], SAME_SOURCE_BITS, MAX_BITS)
    close = distance <= limit
    twin, bits = _settle(kept[close], copy[close], distance[close], rank)
    featureless = int((np.diff(clips.offsets) == 0).sum())
    return Twins(twin, bits, n_featureless=featureless, n_candidates=len(first), **counts)


def twin_detail(name: str, start_s: float, distance: float) -> str:
    """What the ledger says of a dropped twin: the clip that is kept."""
    return f"twin of {name} at {start_s:g} s, distance {distance:.1f} bits"


def thin(clips: ClipHashes, textured: Bools) -> ClipHashes:
    """`clips` without the frames (F,) that are not textured or look like the last one kept.

    Doing it twice changes nothing more, so parts can be thinned before they are put together.
    """
    keep = np.zeros(len(clips.hashes), bool)
    lengths = np.diff(clips.offsets)
    last = np.zeros(len(clips), np.int64)
    seen = np.zeros(len(clips), bool)
    rows = np.arange(len(clips))
    for place in range(int(lengths.max(initial=0))):
        rows = rows[lengths[rows] > place]
        at = clips.offsets[rows] + place
        whole = clips.hashes[at, 0]
        new = ~seen[rows] | (np.bitwise_count(whole ^ last[rows]) >= _NEW_BITS)
        new &= textured[at]
        keep[at[new]] = True
        last[rows[new]] = whole[new]
        seen[rows[new]] = True
    counts = np.concatenate([[0], np.cumsum(keep)])[clips.offsets]
    return replace(clips, hashes=clips.hashes[keep], offsets=counts)


def key_bits(n_clips: int) -> int:
    """The bits of a key: so many that chance agreements stay about as many as clips; 28 for 10 million."""
    return min(max((n_clips - 1).bit_length() + 4, 16), 32)


def _candidates(clips: ClipHashes, n_key_bits: int) -> tuple[Ints, Ints, dict[str, int]]:
    """Pairs of clips (first < second) that have like frames, and the counts of Twins."""
    n, n_words = len(clips), np.diff(clips.offsets) * N_LUMA
    words = clips.hashes[:, :N_LUMA].ravel()
    owner = np.repeat(np.arange(n, dtype=np.uint32), n_words)
    found = [np.zeros(0, np.int64)]
    counts = dict.fromkeys(("n_keys", "n_crowded", "n_unseen"), 0)
    for mask in _masks(n_key_bits):
        keyed = _keyed(words, owner, mask, n_words)
        counts["n_keys"] += len(keyed)
        start = _bucket_starts(keyed)
        size = np.bincount(start)[start] if len(start) else start
        crowded = size[(start == np.arange(len(start))) & (size > _CROWD)]
        counts["n_crowded"] += len(crowded)
        counts["n_unseen"] += int(((crowded - _CROWD) * (crowded - _CROWD - 1) // 2).sum())
        entry = (keyed & 0xFFFFFFFF).astype(np.int64)
        for one, other in _bucket_pairs(start):
            found.append(_like(clips, words, owner, (entry[one], entry[other])))
        found = [np.unique(np.concatenate(found))]
    return found[0] // n, found[0] % n, counts


def _masks(n_key_bits: int) -> list[np.int64]:
    """For each table the bits of a hash that its keys are of; bit 0 of `copy_hashes` says nothing."""
    rng = np.random.default_rng(0)
    chosen = [1 + rng.permutation(63)[:n_key_bits] for _ in range(_TABLES)]
    return [np.packbits(np.isin(np.arange(64), bits)).view(">i8").astype(np.int64)[0] for bits in chosen]


def _keyed(words: Ints, owner: npt.NDArray[np.uint32], mask: np.int64, n_words: Ints) -> np.ndarray:
    """The table's entries in order, key above and index of the word below (uint64); one a key and clip.

    The key is the same for a word and its mirror image. A clip with many words gives only keys from a part
    of their range that shrinks with their number: its copies, with about as many, give the same ones.
    """
    parts = []
    share = np.minimum(_KEYS_PER_TABLE / np.maximum(n_words, 1), 1)
    limit = (share * 0xFFFFFFFF).astype(np.uint64)
    for begin in range(0, len(words), _CHUNK):
        some = words[begin : begin + _CHUNK]
        mixed = _mixed(np.minimum(some & mask, mirrored_luma(some) & mask).view(np.uint64))
        taken = np.flatnonzero((mixed & _LOW) <= limit[owner[begin : begin + _CHUNK]])
        parts.append((mixed[taken] & ~_LOW) | (taken + begin).astype(np.uint64))
    keyed = np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)
    holder, key = owner[(keyed & _LOW).astype(np.int64)], keyed >> np.uint64(32)
    again = (key[1:] == key[:-1]) & (holder[1:] == holder[:-1])
    return keyed[np.concatenate([[True], ~again])] if len(keyed) else keyed


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


def _like(clips: ClipHashes, words: Ints, owner: npt.NDArray[np.uint32], entries: tuple[Ints, Ints]) -> Ints:
    """The pairs of clips, first * n + second, of those pairs of entries that may be of twins."""
    one, other = words[entries[0]], words[entries[1]]
    near = np.bitwise_count(one ^ other) <= _FRAME_BITS
    near |= np.bitwise_count(mirrored_luma(one) ^ other) <= _FRAME_BITS
    a, b = (owner[entry[near]].astype(np.int64) for entry in entries)
    same = clips.source[a] == clips.source[b]
    overlap = same & (clips.start_s[a] < clips.end_s[b]) & (clips.start_s[b] < clips.end_s[a])
    wanted = (a != b) & ~overlap
    a, b = a[wanted], b[wanted]
    return np.unique(np.minimum(a, b) * len(clips) + np.maximum(a, b))


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
        ours, theirs = clips.hashes[frame], clips.hashes[clips.offsets[other[row]] + column]
        bits = np.minimum(*(_bits_apart(seen[row], theirs) for seen in (ours, mirrored(ours))))
        nearest = np.minimum.reduceat(bits, np.flatnonzero(column == 0)) if len(bits) else bits
        best = nearest[np.lexsort((nearest, pair))]  # in each pair ascending, beside `place`
        n_best = np.ceil(share * n_of[begin:end])
        result[begin:end] = np.bincount(pair, best * (place < n_best[pair]), end - begin) / n_best
    return result


def _ragged(lengths: Ints) -> tuple[Ints, Ints]:
    """For runs of these lengths, end to end: the number of the run, and the place in it."""
    run = np.repeat(np.arange(len(lengths)), lengths)
    return run, np.arange(len(run)) - (np.cumsum(lengths) - lengths)[run]


def _bits_apart(ours: Ints, theirs: Ints) -> np.ndarray:
    """The distance of frames (m, 7) from frames (m, 7).

    In brightness that of the whole of one from the nearest of the other; a quarter of that in colours, where
    copies differ in up to 12 bits.
    """
    luma = np.minimum(
        np.bitwise_count(ours[:, :1] ^ theirs[:, :N_LUMA]).min(axis=1),
        np.bitwise_count(ours[:, :N_LUMA] ^ theirs[:, :1]).min(axis=1),
    )
    return luma + np.bitwise_count(ours[:, N_LUMA] ^ theirs[:, N_LUMA]) / np.float32(4)


def _settle(kept: Ints, copy: Ints, distance: Floats, rank: Ints) -> tuple[Ints, Floats]:
    """The nearest kept twin of every clip, and its distance. Pairs are kept-before-copy by rank."""
    twin, bits = np.full(len(rank), -1), np.full(len(rank), np.nan)
    order = np.lexsort((rank[kept], distance, rank[copy]))
    for a, b, d in zip(kept[order].tolist(), copy[order].tolist(), distance[order].tolist(), strict=True):
        if twin[a] < 0 and twin[b] < 0:  # all pairs that could drop a stand before those that drop b
            twin[b], bits[b] = a, d
    return twin, bits
