"""Measures near-duplicate detection: recall of each kind of copy, precision, growth with the number of clips.

    python jobs/bench/dedup.py [--clips 2000] [--copied 300] [--sizes 10000 40000 160000 640000] [--seed 0]

`dedup_set.py` describes the clips and the copies. The limit is chosen on its half A, which has half as many
clips: of clips.duplicates_bits in steps of a half, the one with the best F1 (the harmonic mean of recall and
precision). The reported figures are measured on half B. A copy is detected if its duplicate is its original
or another copy of it; a dropped clip with another duplicate is an error. `recall_of_stills` uses only the
middle frames, as for images. `--keep FOLDER` keeps the hashes there for later runs.

Growth is measured on tables with simulated hashes, a tenth of which are copies and a hundredth of which show
one of 20 title cards, in seconds of processor time and in comparisons; the exponent is fitted to the seconds.
Memory is the process's peak, including the table.
"""

import argparse
import dataclasses
import itertools
import json
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from dedup_set import KINDS, Corpus, corpus

from vitascope.clips.dedup.duplicates import FOUND_BY, hashes_of
from vitascope.clips.dedup.hashing import FRAMES, WORDS
from vitascope.clips.dedup.joins import ClipHashes, near_duplicates, thin
from vitascope.clips.settings import ClipsSettings

BITS = np.arange(4, 10.5, 0.5).tolist()
_CHUNK = 20_000  # clips simulated at a time


def kept_corpus(folder: str | None, half: str, size: tuple[int, int], seed: int) -> Corpus:
    """A half of the set, from the folder if it is kept there."""
    if not folder:
        return corpus(half, *size, seed)
    path = Path(folder) / f"{half}-{size[0]}-{size[1]}-{seed}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **dataclasses.asdict(corpus(half, *size, seed)))
    with np.load(path) as arrays:
        return Corpus(**arrays)


def thinned(data: Corpus) -> ClipHashes:
    """The clips, each its own source."""
    ends = np.cumsum(data.lengths)[:-1]
    parts = zip(np.split(data.hashes, ends), np.split(data.contrast, ends), strict=True)
    hashes = [thin(frames, contrast) for frames, contrast in parts]
    n = len(hashes)
    offsets = np.r_[0, np.cumsum([len(frames) for frames in hashes])]
    return ClipHashes(np.concatenate(hashes), offsets, np.arange(n), np.zeros(n), np.ones(n))


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Recall of each kind of copy, and precision."""

    recall: dict[str, float]
    recall_of_all: float
    precision: float
    recall_by_show: dict[str, float]
    wrongly_dropped: dict[str, int]
    distance_of_found_p50_p99: list[float]

    @property
    def f1(self) -> float:
        """The harmonic mean of recall and precision."""
        return 2 * self.recall_of_all * self.precision / (self.recall_of_all + self.precision)


def judged(data: Corpus, clips: ClipHashes, bits: float) -> Judgement:
    """Recall and precision at this limit."""
    duplicates = near_duplicates(clips, max_bits=bits)
    dropped = duplicates.kept >= 0
    right = dropped & (data.origin[duplicates.kept] == data.origin)
    wrong = dropped & ~right
    return Judgement(
        recall={kind: round(float(right[data.kind == kind].mean()), 4) for kind in KINDS},
        recall_of_all=round(float(right[data.kind != "distinct"].mean()), 4),
        precision=round(float(right.sum() / max(dropped.sum(), 1)), 4),
        recall_by_show={s: round(float(right[_copies(data, s)].mean()), 4) for s in _shows(data)},
        wrongly_dropped={s: int(wrong[data.show == s].sum()) for s in _shows(data)},
        distance_of_found_p50_p99=np.round(np.percentile(duplicates.distance[right], (50, 99)), 1).tolist(),
    )


def _copies(data: Corpus, show: str) -> np.ndarray:
    return (data.show == show) & (data.kind != "distinct")


def _shows(data: Corpus) -> list[str]:
    return np.unique(data.show[data.kind != "distinct"]).tolist()


def middles(clips: ClipHashes) -> tuple[np.ndarray, ClipHashes]:
    """The clips that have a frame to compare, and each one's middle frame alone."""
    of = np.flatnonzero(np.diff(clips.offsets) > 0)
    hashes = clips.hashes[(clips.offsets[of] + clips.offsets[of + 1]) // 2]
    return of, ClipHashes(hashes, np.arange(len(of) + 1), of, np.zeros(len(of)), np.ones(len(of)))


def recall_of_stills(data: Corpus, clips: ClipHashes, bits: float) -> float:
    """As in `judged`, for single frames."""
    of, stills = middles(clips)
    duplicate = near_duplicates(stills, max_bits=bits).kept
    right = (duplicate >= 0) & (data.origin[of][duplicate] == data.origin[of])
    return round(float(right.sum() / (data.kind != "distinct").sum()), 4)


def closest_distinct(data: Corpus, clips: ClipHashes) -> dict[str, list[float]]:
    """Distances in bits of the middle frames of different scenes of a kind: least, 1 in 1,000, 1 in 100."""
    distances = {}
    of, stills = middles(clips)
    for show in _shows(data):
        middle = stills.hashes[(data.kind[of] == "distinct") & (data.show[of] == show)]
        apart = [FRAMES.apart(np.tile(one, (i, 1)), middle[:i]) for i, one in enumerate(middle) if i]
        if apart:
            distances[show] = np.percentile(np.concatenate(apart), (0, 0.1, 1)).round(1).tolist()
    return distances


def simulated(n: int, seed: int) -> pa.Table:
    """The columns that `hashes_of` needs, for n clips of 9 to 33 frames.

    A third of them are stills; in the others 0 to 3 bits change from frame to frame.
    """
    rng = np.random.default_rng(seed)
    shows = np.concatenate([np.arange(n - n // 10), rng.integers(0, n - n // 10, n // 10)])
    shows[rng.permutation(n)[: n // 100]] = rng.integers(0, 20, n // 100)
    parts = [_hashes(shows[begin : begin + _CHUNK], rng) for begin in range(0, n, _CHUNK)]
    columns = {"start_s": pa.repeat(0.0, n), "end_s": pa.repeat(2.0, n)}
    names = pa.array(f"folder/of/some/length/{i:09}.mp4" for i in range(n))
    return pa.table(columns | {"name": names, "hashes": pa.chunked_array(parts)})


def _hashes(shows: np.ndarray, rng: np.random.Generator) -> pa.Array:
    """The column `hashes` of clips with these contents."""
    length = 9 + _mixed(shows) % 25
    offsets = np.r_[0, np.cumsum(length)]
    clip = np.repeat(np.arange(len(shows)), length)
    place, scene = np.arange(len(clip)) - offsets[clip], shows[clip]
    steps = np.where((scene % 3 > 0) & (place > 0), _bit(scene * 64 + place) ^ _bit(scene * 64 - place), 0)
    walked = np.bitwise_xor.accumulate(steps)
    whole = _mixed(scene + 1) ^ walked ^ walked[offsets[clip]]
    crops = [whole ^ np.bitwise_or.reduce([_bit(whole + v + 977 * i) for i in range(6)]) for v in range(1, 6)]
    words = np.stack([whole, *crops], axis=1)
    noise = _bit(rng.integers(0, 2**62, words.shape)) & -rng.integers(0, 2, words.shape)
    hashes = np.hstack([(words ^ noise) & (2**63 - 1), np.zeros((len(words), 1), np.int64)])
    contrast = np.full(len(hashes), 50.0)
    kept = [thin(hashes[a:b], contrast[a:b]) for a, b in itertools.pairwise(offsets.tolist())]
    ends = np.r_[0, np.cumsum([frames.size for frames in kept])]
    return pa.LargeListArray.from_arrays(ends, np.concatenate(kept).ravel()).cast(
        FOUND_BY.field("hashes").type
    )


def _mixed(seeds: np.ndarray) -> np.ndarray:
    """63 pseudorandom bits from each seed (the finaliser of SplitMix64)."""
    keys = (seeds.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((keys ^ (keys >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def _bit(seeds: np.ndarray) -> np.ndarray:
    """One of 63 bits, sampled from each seed."""
    return np.int64(1) << (_mixed(seeds) % 63)


def growth(sizes: list[int], seed: int) -> dict[str, object]:
    """Seconds of processor time and peak memory for each number of clips, ascending."""
    seconds, peaks = [], []
    for n in sorted(sizes):
        table = simulated(n, seed)
        begin = time.process_time()
        duplicates = near_duplicates(hashes_of(table, FRAMES), max_bits=ClipsSettings().duplicates_bits)
        seconds.append(round(time.process_time() - begin, 2))
        peaks.append(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2))
        n_bytes = table["hashes"].nbytes
        each = (
            duplicates.n_keys,
            duplicates.n_compared,
            duplicates.n_candidates,
            (duplicates.kept >= 0).sum(),
        )
        print(
            f"{n:,} clips: {seconds[-1]} s of processor time, peak {peaks[-1]} GB; per clip:"
            f" {n_bytes / 8 / WORDS / n:.1f} frames in {n_bytes / n:.0f} bytes, and keys, pairs of frames,"
            f" pairs of clips and duplicates {np.round(np.array(each) / n, 3).tolist()}",
            flush=True,
        )
    exponent = float(np.polyfit(np.log(sorted(sizes)), np.log(seconds), 1)[0]) if len(sizes) > 1 else None
    return {
        "growth_clips": sorted(sizes),
        "growth_processor_s": seconds,
        "growth_exponent": exponent and round(exponent, 3),
        "peak_gb": peaks,
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--copied", type=int, default=300)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 40_000, 160_000, 640_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="folder to keep the hashes in")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    grown = growth(args.sizes, args.seed) if args.sizes else {}
    results = {}
    for half, size, seed in (
        ("A", (args.clips // 2, args.copied // 2), args.seed),
        ("B", (args.clips, args.copied), args.seed + 1),
    ):
        data = kept_corpus(args.keep, half, size, seed)
        clips = thinned(data)
        results[half] = {bits: judged(data, clips, bits) for bits in BITS}
        for bits, about in results[half].items():
            print(f"{half} at {bits} bits: {json.dumps(vars(about))}", flush=True)
    bits = max(BITS, key=lambda bits: results["A"][bits].f1)
    result = {"distinct": args.clips, "copies": args.copied * len(KINDS), "chosen_bits": bits}
    result |= vars(results["B"][bits]) | {"recall_of_stills": recall_of_stills(data, clips, bits)}
    result["closest_distinct_bits"] = closest_distinct(data, clips)
    print(json.dumps(result | grown))


if __name__ == "__main__":
    main()
