"""Measures the planner: steps, balance, mix, speed and memory, on a typical mix and on hostile ones.

    python jobs/bench/plan.py [--samples 1000000] [--ranks 64] [--seed 0] [--token-budget 524288]
                              [--hostile-samples 400000] [--hostile-width 192]

The typical samples: half images, half videos of 9 to 129 frames; 256² to 720p; landscape, portrait and
square; 10 to 200 text tokens, uniform. The codec's strides are 4 x 8 x 8 and the patch is 2, so 129 frames of
720p are 33 x 45 x 80 = 118,800 tokens. Costs are those of a transformer of width 3072 and depth 30 (about 5
billion parameters), in which a token of the longest video costs 6.5 times one of an image. A rank is the unit
that computes a pack: one GPU, or several with sequence parallelism. Below about 342,000 tokens a pack, a pack
with such a video, filled up with images, outweighs the mean pack (try --token-budget 262144).

The naive method is Open-Sora's: a batch holds one shape (T x H x W), as many samples as the budget allows;
the last batch of a shape is filled up with repeats, and the last step with repeated batches; batches are
shuffled, and in a step each rank takes the next; text is padded to 512 tokens.

The hostile ones are planned at 16,384 tokens a pack for 1 to 64 packs a step, with the costs of a narrow
transformer, in which attention dominates most: a token of a sample of 16,384 costs 14 times one of a short
sample. over_fewest is the steps divided by the fewest possible: no plan needs fewer than the tokens fill, or
the samples of over half a budget (a third, …). busy is the ranks' mean time divided by that of the busiest,
and most_busy a bound that no plan exceeds: the k costliest steps last at least as long as every G-th of the
samples that share no pack, and the others hold the rest when the densest samples fill these.

The last line is one JSON object. samples_per_s is the median wall time of --repeats epochs, each planned from
nothing, on one thread (numpy sorts and adds on one); samples_per_cpu_s the same in processor time, for
machines with other work. peak_memory_bytes is the peak allocation of planning an epoch in addition to the
index (tracemalloc). useful_token_share is real patches and text divided by patches and text computed; fill is
mean tokens divided by the budget. step_mix_divergence is the mean total-variation distance between a step's
distribution of tokens over size classes (T x H x W, or an octave of tokens; by_area: whatever the aspect) and
the epoch's; random_step_mix_divergence is the same for samples dealt to as many steps at random.
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
from vitascope.model.cost import Cost
from vitascope.model.networks import cost_of
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
LEARNED_TEXT = 1  # the token before each sample's text, computed but not counted as useful
SAMPLES_PER_SHARD = 128
HOSTILE_BUDGET = 16_384


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
    """An epoch as a method deals it out.

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
    """The plan's epoch, one pack a rank; packs hold only real tokens."""
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
    """Mean total-variation distance of the steps' tokens by class from the whole's; all (n,)."""
    n_classes, n_steps = int(classes.max()) + 1, int(steps.max()) + 1
    held = np.bincount(steps * n_classes + classes, tokens, n_steps * n_classes).reshape(n_steps, n_classes)
    whole = held.sum(axis=0) / held.sum()
    return float((0.5 * np.abs(held / held.sum(axis=1, keepdims=True) - whole).sum(axis=1)).mean())


def metrics(epoch: Epoch, data: Data, *, budget: int, seed: int) -> dict[str, float]:
    """The figures that compare both methods."""
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
    """Median speed of some runs, and the peak allocation of one more run."""
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


def hostile(n: int, seed: int) -> dict[str, Ints]:
    """Patches of `n` samples, by name of the distribution."""
    rng = np.random.default_rng(seed)
    pareto = np.minimum(HOSTILE_BUDGET, 64 * (1 + rng.pareto(1.1, n)))
    return {
        "10,000 x 256 and one of 16,384": np.append(np.full(10_000, 256), 16_384),
        "256, one of 16,384 in 1,000": np.where(np.arange(n) % 1000 == 500, 16_384, 256),
        "256 (90 %) and 16,384": np.where(rng.random(n) < 0.9, 256, 16_384),
        "1,024 (90 %) and 12,000": np.where(rng.random(n) < 0.9, 1024, 12_000),
        "Pareto 1.1 from 64, capped": pareto.astype(np.int64),
        "one shape a shard": np.repeat(rng.choice([256, 920, 1590, 3600, 7950, 16_384], -(-n // 128)), 128),
        "half the budget, 300 more or less": rng.integers(
            HOSTILE_BUDGET // 2 - 300, HOSTILE_BUDGET // 2 + 301, n
        ),
        "uniform from 1 to the budget": rng.integers(1, HOSTILE_BUDGET + 1, n),
        "one token": np.ones(n, np.int64),
        "5 samples": rng.choice([256, 920, 1590], 5),
    }


def fewest_steps(tokens: Ints, budget: int, n_packs: int) -> int:
    """The fewest steps of any plan: for the tokens, and for samples of which a pack holds at most k."""
    by_count = (-(-int((tokens * (k + 1) > budget).sum()) // (k * n_packs)) for k in range(1, 5))
    return max(-(-int(tokens.sum()) // (budget * n_packs)), *by_count)


def most_busy(lengths: Lengths, budget: int, n_packs: int) -> float:
    """The bound on any plan's busy ratio; see the module's docstring."""
    tokens, costs = lengths.tokens.astype(np.int64), lengths.costs.astype(np.float64)
    densest = np.argsort(-costs / tokens, kind="stable")
    so_far = np.cumsum(tokens[densest]), np.cumsum(costs[densest])
    least = max(costs.sum() / n_packs, costs.max())
    for k in range(1, 5):
        longest = np.sort(costs[tokens * (k + 1) > budget])[:: -k * n_packs]
        held = np.interp(np.arange(1, len(longest) + 1) * n_packs * budget, *so_far)
        rest = np.maximum(costs.sum() - held, 0) / n_packs
        least = max(least, (np.cumsum(longest) + rest).max(initial=0))
    return float(costs.sum() / n_packs / least)


def hostile_row(name: str, tokens: Ints, n_packs: int, args: argparse.Namespace) -> dict[str, float | str]:
    """One distribution planned for a number of packs per step."""
    model = ModelSettings(depth=4, width=args.hostile_width, heads=3, patch=2)
    data = Data(tokens, np.full(len(tokens), 50), np.log2(tokens).astype(np.int64))
    lengths = lengths_of(data, cost_of(model, channels=16, text_dim=384))
    started = time.process_time()
    planner = Planner(lengths, args.seed, HOSTILE_BUDGET, n_packs, args.window_samples)
    plan_epoch(planner)
    seconds = time.process_time() - started
    epoch = planned(planner, data)
    assert np.array_equal(np.sort(epoch.samples), np.arange(len(tokens))), "every sample exactly once"
    assert epoch.rank_tokens.max() <= HOSTILE_BUDGET, "the budget is kept"
    fewest = fewest_steps(tokens, HOSTILE_BUDGET, n_packs)
    shuffled = np.random.default_rng(args.seed + 1).permutation(epoch.samples)
    return {
        "lengths": name,
        "packs_per_step": n_packs,
        "steps": len(epoch.rank_costs),
        "over_fewest": round(len(epoch.rank_costs) / fewest, 3),
        "busy": round(float(epoch.rank_costs.mean(axis=1).sum() / epoch.rank_costs.max(axis=1).sum()), 3),
        "most_busy": round(most_busy(lengths, HOSTILE_BUDGET, n_packs), 3),
        "step_mix_divergence": round(
            divergence(data.size_class[epoch.samples], tokens[epoch.samples], epoch.steps), 3
        ),
        "random_step_mix_divergence": round(
            divergence(data.size_class[shuffled], tokens[shuffled], epoch.steps), 3
        ),
        "samples_per_cpu_s": round(len(tokens) / max(seconds, 1e-9)),
    }


def hostile_table(args: argparse.Namespace) -> list[dict[str, float | str]]:
    """Prints all hostile distributions for 1 to 64 packs a step, the furthest from the bounds first."""
    rows = [
        hostile_row(name, tokens, n_packs, args)
        for name, tokens in hostile(args.hostile_samples, args.seed).items()
        for n_packs in (1, 2, 4, 8, 64)
    ]
    rows.sort(
        key=lambda row: -max(float(row["over_fewest"]) - 1, float(row["most_busy"]) - float(row["busy"]))
    )
    print(*(name.rjust(10) for name in list(rows[0])[1:]), "lengths")
    for row in rows:
        values = list(row.values())
        print(
            *(str(value).rjust(max(10, len(name))) for name, value in list(row.items())[1:]),
            values[0],
            flush=True,
        )
    return rows


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
    parser.add_argument("--hostile-samples", type=int, default=400_000)
    parser.add_argument(
        "--hostile-width", type=int, default=192, help="width of the hostile samples' transformer"
    )
    return parser.parse_args()


def main() -> None:
    args = arguments()
    cost = cost_of(MODEL, channels=16, text_dim=4096)
    data = draw(args.samples, args.seed)
    lengths = lengths_of(data, cost)

    def planner() -> Planner:
        """A new one, without a cached window."""
        return Planner(
            lengths,
            seed=args.seed,
            token_budget=args.token_budget,
            packs_per_step=args.ranks,
            window_samples=args.window_samples,
        )

    def batches() -> Epoch:
        return naive(data, cost, budget=args.token_budget, ranks=args.ranks, seed=args.seed)

    rows = hostile_table(args)
    print(planner().advice() or "The ranks are busy with the typical samples at this budget.", flush=True)
    result: dict[str, object] = {
        "worst_over_fewest": max(row["over_fewest"] for row in rows),
        "worst_busy_below_most": max(float(row["most_busy"]) - float(row["busy"]) for row in rows),
        "hostile": rows,
        "samples": args.samples,
        "ranks": args.ranks,
        "token_budget": args.token_budget,
    }
    for prefix, run, epoch in [
        ("", lambda: plan_epoch(planner()), planned(planner(), data)),
        ("naive_", batches, batches()),
    ]:
        figures = measured(run, args.repeats, args.samples)
        figures |= metrics(epoch, data, budget=args.token_budget, seed=args.seed)
        result |= {prefix + name: value for name, value in figures.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
