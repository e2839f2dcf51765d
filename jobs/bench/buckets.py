"""Fractions of clips, pixels and seconds that suggested buckets keep.

    python jobs/bench/buckets.py [--clips TABLE] [--simulated 1000000] [--max-tokens 32768] [--count 12]

On the usable clips of a clip table, if one is given, and on simulated ones, compared with

    one_size            the best single size, any crop allowed, as in training at one fixed size
    one_480x832         480x832 of as many frames as keep the most pixel-seconds, any crop allowed
    near_native         the rule of encode.max_pixels and encode.frame_counts at their defaults, of any
                        number of tokens: the upper bound, except for seconds outside its frame counts
    near_native_within  the same, if samples above the limit are dropped

The codec's strides are 4 x 8 x 8 and the patch is 2, so 81 frames of 480x832 are 21 x 30 x 52 = 32,760
tokens.

The simulated clips: 5 % are pictures; the others have a log-normal duration with median --median-s (4 s) and
sigma 0.8, from 0.5 to 60 s, at 8 frames/s. 30 % of all are 9:16 (576x1024 to 2160x3840), 40 % 16:9 (426x240
to 3840x2160), 8 % 4:3, 7 % square, 5 % cinema (2.39), and 10 % odd: the longer side log-uniform between 200
and 2,600 px, aspect between 1:2.5 and 2.5:1.

The last line is one JSON object; fractions are from 0 to 1. clips: not dropped. pixels: of the clips' frames,
each clip's frame once, after crop and scale. seconds: of their duration. both: pixels x seconds. sizes:
different sizes in use. count_s: seconds to count the clips by size; propose_s: seconds to search the table.
"""

import argparse
import json
import time

import numpy as np

from vitascope.encode import bucket_facts
from vitascope.encode.buckets import Patching
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.strides import strides_of
from vitascope.encode.suggest import Clips, Limits, clips_of, count_sizes, propose
from vitascope.records import VideoSize

PATCHING = Patching(strides_of(EncodeSettings()), patch=2)
SIZES = [  # fraction of the clips; width, height and weight of each size
    (0.30, [(720, 1280, 5), (1080, 1920, 4), (576, 1024, 3), (2160, 3840, 1)]),
    (0.40, [(426, 240, 1), (640, 360, 2), (854, 480, 2), (1280, 720, 6), (1920, 1080, 6), (2560, 1440, 1),
        (3840, 2160, 2)]),
    (0.08, [(320, 240, 1), (640, 480, 3), (720, 540, 1), (1440, 1080, 2)]),
    (0.07, [(480, 480, 1), (720, 720, 3), (1080, 1080, 4)]),
    (0.05, [(1280, 536, 2), (1920, 804, 3), (3840, 1608, 1)]),
]  # fmt: skip
FPS, SIGMA, SHORTEST_S, LONGEST_S, PICTURES = 8.0, 0.8, 0.5, 60.0, 0.05


def draw(n: int, seed: int, median_s: float) -> np.ndarray:
    """(n, 3) n_frames, height, width of the simulated clips."""
    rng = np.random.default_rng(seed)
    table = np.array([(h, w) for _, sizes in SIZES for w, h, _ in sizes])
    chance = np.concatenate(
        [share * np.array([s[2] for s in sizes]) / sum(s[2] for s in sizes) for share, sizes in SIZES]
    )
    sides = table[rng.choice(len(table), n, p=chance / chance.sum())]
    odd = np.flatnonzero(rng.random(n) > chance.sum())
    longer = np.exp(rng.uniform(np.log(200), np.log(2600), len(odd)))
    aspect = np.exp(rng.uniform(-np.log(2.5), np.log(2.5), len(odd)))
    sides[odd] = longer[:, None] * np.column_stack([np.minimum(1, 1 / aspect), np.minimum(1, aspect)])
    length_s = np.clip(rng.lognormal(np.log(median_s), SIGMA, n), SHORTEST_S, LONGEST_S)
    frames = np.where(rng.random(n) < PICTURES, 1, 1 + (length_s * FPS).astype(np.int64))
    return np.column_stack([frames, sides])


def measure(clips: Clips, limits: Limits) -> dict[str, object]:
    """What the suggested table keeps, compared with the two other ways; prints the table."""
    started = time.perf_counter()
    buckets = propose(clips, limits)
    propose_s = time.perf_counter() - started
    single, usual = bucket_facts.one_size(clips, limits), best_480x832(clips, limits)
    print("\n".join(bucket_facts.table_lines(clips, buckets, limits)), flush=True)
    kept = {
        "suggested": bucket_facts.of_table(clips, buckets, limits.max_crop),
        "one_size": bucket_facts.of_table(clips, [single], max_crop=1),
        "one_480x832": bucket_facts.of_table(clips, [usual], max_crop=1),
        "near_native": bucket_facts.of_near_native(clips, EncodeSettings(), PATCHING),
        "near_native_within": bucket_facts.of_near_native(
            clips, EncodeSettings(), PATCHING, limits.max_tokens
        ),
    }
    return {
        "n_clips": int(clips.count.sum()),
        "n_sizes": len(clips.sizes),
        "fixed": {"one_size": str(single), "one_480x832": str(usual)},
        "propose_s": round(propose_s, 2),
        **{name: shares(totals) for name, totals in kept.items()},
    }


def best_480x832(clips: Clips, limits: Limits) -> VideoSize:
    """480x832 px of the duration that keeps the most pixel-seconds."""
    longest = limits.max_tokens // (30 * 52) * 4 - 3
    lengths = [VideoSize(n, 480, 832) for n in range(1, longest + 1, 4)]
    return max(lengths, key=lambda size: bucket_facts.of_table(clips, [size], max_crop=1).pixel_seconds)


def shares(totals: bucket_facts.Totals) -> dict[str, float]:
    """Totals, rounded."""
    return {
        "clips": round(totals.clips, 4),
        "pixels": round(totals.pixels, 4),
        "seconds": round(totals.seconds, 4),
        "both": round(totals.pixel_seconds, 4),
        "sizes": totals.sizes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", metavar="TABLE", help="a clip table, local or in a bucket")
    parser.add_argument("--simulated", type=int, default=1_000_000)
    parser.add_argument("--median-s", type=float, default=4.0)
    parser.add_argument("--max-tokens", type=int, default=32_768)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    limits = Limits(max_tokens=args.max_tokens, count=args.count, patching=PATCHING)
    result: dict[str, object] = {"max_tokens": args.max_tokens, "count": args.count}
    if args.clips:
        result["table"] = measure(clips_of(args.clips), limits)
    drawn = draw(args.simulated, args.seed, args.median_s)
    started = time.perf_counter()
    clips = count_sizes(drawn)
    count_s = time.perf_counter() - started
    result["simulated"] = measure(clips, limits) | {"count_s": round(count_s, 2)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
