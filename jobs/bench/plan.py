"""Measures the planner: speed, balance, mix and memory, beside one-shape batches drawn by each rank.

    python jobs/bench/plan.py [--samples 1000000] [--ranks 64] [--seed 0] [--token-budget 524288]

The samples: half images, half videos of 9 to 129 frames; 256² to 720p; landscape, portrait and square; 10
to 200 text tokens, uniform. The codec's strides are 4 x 8 x 8 and the patch is 2, so 129 frames of 720p are
33 x 45 x 80 = 118,800 tokens. Costs are those of a transformer of width 3072 and depth 30 (about 5 billion
parameters), where a token of the longest video costs 6.5 times one of an image. A rank is whatever computes
a pack: one GPU, or several with sequence parallelism. 524,288 tokens a pack, because below about 342,000 a
pack with one such video, filled up with images, outweighs the mean pack: no plan of full packs makes the
ranks equal there (try --token-budget 262144).

The naive way is Open-Sora's: a batch holds one shape (T x H x W), as many samples as the budget allows; the
last batch of a shape is filled up with repeats, and the last step with repeated batches; batches are
shuffled, and in a step each rank takes the next; text is padded to 512 tokens.

The last line is one JSON object. samples_per_s is the median wall time of --repeats epochs, each planned
from nothing, on one thread (numpy sorts and adds on one); samples_per_cpu_s the same in processor time, for
machines with other work. peak_memory_bytes is what planning an epoch allocates at its peak beside the index
(tracemalloc). useful_token_share is real patches and text over patches and text computed; fill is mean
tokens over the budget. step_mix_divergence is the mean total-variation distance between a step's token
share by size class (T x H x W; by_area: whatever the aspect) and the epoch's; random_step_mix_divergence
the same for samples dealt to as many steps at random.
"""

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vitascope.feed.lengths import Floats, Ints, Lengths
from vitascope.feed.plan import Planner
from vitascope.model.cost import Cost, cost_of
from vitascope.model.settings import ModelSettings

MODEL = ModelSettings(depth=30, width=3072, heads=24, mlp_ratio=4.0, patch=2)
FRAMES, FRAMES_SHARE = np.array([1, 9, 17, 33, 65, 129]), [0.5, 0.075, 0.1, 0.15, 0.1, 0.075]
SHAPES = np.array(  # height, width in pixels: square, landscape, portrait of each resolution
    [
        [(256, 256), (192, 336), (336, 192)],
        [(480, 480), (368, 640), (640, 368)],
        [(640, 640), (480, 848), (848, 480)],
        [(960, 960), (720, 1280), (1280, 720)],
    ]
)
RESOLUTION_SHARE, ASPECT_SHARE = [0.3, 0.3, 0.25, 0.15], [0.2, 0.6, 0.2]
PADDED_TEXT = 512
LEARNED_TEXT = 1  # the token before each sample's text, computed and not counted as useful
SAMPLES_PER_SHARD = 128


@dataclass(frozen=True)
class Data:
    """Samples: (N,) patches, text tokens and size class."""

    tokens: Ints
    n_text: Ints
    size_class: Ints


def draw(n: int, seed: int) -> Data:
    """`n` samples of the mixed distribution."""
    rng = np.random.default_rng(seed)
    frames = rng.choice(len(FRAMES), n, p=FRAMES_SHARE)
    resolution = rng.choice(len(SHAPES), n, p=RESOLUTION_SHARE)
    aspect = rng.choice(3, n, p=ASPECT_SHARE)
    grid = SHAPES[resolution, aspect] // 16
    tokens = (1 + (FRAMES[frames] - 1) // 4) * grid[:, 0] * grid[:, 1]
    return Data(tokens, rng.integers(10, 201, n), (frames * len(SHAPES) + resolution) * 3 + aspect)


def lengths_of(data: Data, cost: Cost) -> Lengths:
    """The planner's arrays; teraFLOPs as costs."""
    n = len(data.tokens)
    numbers = np.arange(n)
    costs = np.asarray(cost.of(data.tokens, data.n_text)) / 1e12
    return Lengths(
        (numbers // SAMPLES_PER_SHARD).astype(np.int32),
        data.tokens.astype(np.int32),
        costs.astype(np.float32),
    )


@dataclass(frozen=True)
class Epoch:
    """An epoch as any method deals it out.

    samples, steps: (n,) sample numbers in use and the step of each, repeats included.
    rank_costs, rank_tokens: (S, R). computed: patches and text tokens computed, padding included.
    """

    samples: Ints
    steps: Ints
    rank_costs: Floats
    rank_tokens: Ints
    computed: int


def plan_epoch(planner: Planner) -> None:
    """Plans all windows of an epoch."""
    for number in range(planner.windows(0)):
        planner.window(0, number)


def planned(planner: Planner, data: Data) -> Epoch:
    """The plan's epoch, one pack a rank; packs hold real tokens alone."""
    windows = [planner.window(0, number) for number in range(planner.windows(0))]
    samples = np.concatenate([window.samples for window in windows])
    tokens = np.concatenate([window.tokens for window in windows])
    per_step = np.concatenate([np.diff(window.offsets[:: planner.packs_per_step]) for window in windows])
    return Epoch(
        samples=samples,
        steps=np.repeat(np.arange(len(per_step)), per_step),
        rank_costs=np.concatenate([window.costs for window in windows]),
        rank_tokens=tokens,
        computed=int(tokens.sum() + (data.n_text[samples] + LEARNED_TEXT).sum()),
    )


def naive(data: Data, cost: Cost, *, budget: int, ranks: int, seed: int) -> Epoch:
    """Open-Sora's epoch: shuffled batches of one shape, a batch a rank."""
    rng = np.random.default_rng(seed)
    batches: list[Ints] = []
    for size_class in np.unique(data.size_class):
        members = rng.permutation(np.flatnonzero(data.size_class == size_class))
        size = max(1, budget // int(data.tokens[members[0]]))
        padded = np.resize(members, -(-len(members) // size) * size)  # repeats from the start
        batches += list(padded.reshape(-1, size))
    n_steps = -(-len(batches) // ranks)
    order = np.resize(rng.permutation(len(batches)), n_steps * ranks)
    counts = np.array([len(batches[number]) for number in order])
    each = data.tokens[[batches[number][0] for number in order]]
    costs = counts * np.asarray(cost.of(each, np.full_like(each, PADDED_TEXT)))
    return Epoch(
        samples=np.concatenate([batches[number] for number in order]),
        steps=np.repeat(np.arange(n_steps), counts.reshape(n_steps, ranks).sum(axis=1)),
        rank_costs=costs.reshape(n_steps, ranks),
        rank_tokens=(counts * each).reshape(n_steps, ranks),
        computed=int((counts * (each + PADDED_TEXT + LEARNED_TEXT)).sum()),
    )


def divergence(classes: Ints, tokens: Ints, steps: Ints) -> float:
    """Mean total-variation distance of the steps' shares of tokens by class from the whole's; all (n,)."""
    n_classes, n_steps = int(classes.max()) + 1, int(steps.max()) + 1
    held = np.bincount(steps * n_classes + classes, tokens, n_steps * n_classes).reshape(n_steps, n_classes)
    whole = held.sum(axis=0) / held.sum()
    return float((0.5 * np.abs(held / held.sum(axis=1, keepdims=True) - whole).sum(axis=1)).mean())


def metrics(epoch: Epoch, data: Data, *, budget: int, seed: int) -> dict[str, float]:
    """What both methods are judged by."""
    spread = epoch.rank_costs.max(axis=1) / epoch.rank_costs.mean(axis=1) - 1
    real = int(data.tokens[epoch.samples].sum() + data.n_text[epoch.samples].sum())
    seen = np.bincount(epoch.samples, minlength=len(data.tokens))
    shuffled = np.random.default_rng(seed + 1).permutation(epoch.samples)

    def mix(samples: Ints, per_class: int) -> float:
        classes = data.size_class[samples] // per_class
        return round(divergence(classes, data.tokens[samples], epoch.steps), 4)

    return {
        "useful_token_share": round(real / epoch.computed, 5),
        "cost_spread_mean": round(float(spread.mean()), 5),
        "cost_spread_p99": round(float(np.percentile(spread, 99)), 5),
        "exactly_once": bool((seen == 1).all()),
        "fill": round(float(epoch.rank_tokens.mean()) / budget, 4),
        "steps": len(epoch.rank_costs),
        "step_mix_divergence": mix(epoch.samples, 1),
        "random_step_mix_divergence": mix(shuffled, 1),
        "step_mix_divergence_by_area": mix(epoch.samples, 3),
        "random_step_mix_divergence_by_area": mix(shuffled, 3),
    }


def measured(run: Callable[[], Epoch | None], repeats: int, n_samples: int) -> dict[str, float]:
    """Median speed of some runs, and the peak of what one more run allocates."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    print("samples/s of each run:", *(f"{n_samples / s:,.0f}" for s in walls), flush=True)
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "samples_per_s": round(n_samples / float(np.median(walls))),
        "samples_per_cpu_s": round(n_samples / float(np.median(cpus))),
        "peak_memory_bytes": peak,
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--token-budget", type=int, default=1 << 19)
    parser.add_argument("--window-samples", type=int, default=1 << 17)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    cost = cost_of(MODEL, channels=16, text_dim=4096)
    data = draw(args.samples, args.seed)
    lengths = lengths_of(data, cost)

    def planner() -> Planner:
        """A new one, that remembers no window."""
        return Planner(
            lengths,
            seed=args.seed,
            token_budget=args.token_budget,
            packs_per_step=args.ranks,
            window_samples=args.window_samples,
        )

    def batches() -> Epoch:
        return naive(data, cost, budget=args.token_budget, ranks=args.ranks, seed=args.seed)

    print("x")
    result: dict[str, float] = {
        "samples": args.samples,
        "ranks": args.ranks,
        "token_budget": args.token_budget,
    }
    for prefix, run, epoch in [
        ("", lambda: plan_epoch(planner()), planned(planner(), data)),
        ("naive_", batches, batches()),
    ]:
        found = measured(run, args.repeats, args.samples)
        found |= metrics(epoch, data, budget=args.token_budget, seed=args.seed)
        result |= {prefix + name: value for name, value in found.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
