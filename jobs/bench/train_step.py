"""Measures a training step against a bare PyTorch loop on the same packs and the same model.

    python jobs/bench/train_step.py [--device cuda] [--no-ray] [--threads 1] [--set model.width=192]
    torchrun --nproc-per-node 8 jobs/bench/train_step.py --device cuda --no-ray

Ours is the step of a rank of `vitascope train`: packs from Feed (Ray Data), flow.loss, DeepSpeed ZeRO-3 with
float32 gradients, clipping, AdamW, EMA, the step's row in the log and in Ray's metrics. It excludes held-out
losses and checkpoints.

Both compute in --set train.precision=bf16 or float32, by default in the type that the machine computes fast.
Bare is a minimal loop for one device: weights in that precision with float32 masters, the same flow.loss,
backward, clip_grad_norm_, fused AdamW on the masters, copied back to the weights. Its packs are in memory; no
EMA, no log, no waiting for the loss. Each of several ranks runs it independently.

Both run alternately, a few steps at a time, on the same packs; between them torch.matmul of square matrices
in that precision gives the peak of the machine at that moment, with the same threads. With --no-ray, or if
Ray is missing, packs are in memory for ours too, no metrics go to Ray, and there is no data_wait_share.

The last line is one JSON object. step_over_bare is the ratio of the medians of the blocks of steps, and
step_over_bare_quartiles the quartiles of the ratios of neighbouring blocks, a measure of noise;
step_over_bare_cpu is the ratio in this process's processor time, for CPUs with other work.
flops_over_matmul_peak is the model FLOPs (model/cost.py: matrix products, backward twice forward) that a rank
achieves per second in our step, divided by those of the median matmul. peak_memory_bytes is the GPU memory of
ours alone.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.distributed as dist
from loops import Bare, start_ranks
from torch.nn import functional

from vitascope import config, precision, records, storage
from vitascope.config import Settings
from vitascope.encode.plan import EncodeTask
from vitascope.encode.samples import Encoded, Moments, shard_table
from vitascope.encode.shards import ShardNote, facts_hash, shard_uri, write_index, write_shard
from vitascope.feed.packs import Pack
from vitascope.feed.plan import NO_PACK, Position, ranks_share
from vitascope.feed.source import Source, load_pack, planned
from vitascope.feed.stream import Feed, PlannedPack
from vitascope.model.formats.card import ModelCard
from vitascope.model.formats.purpose import as_trained
from vitascope.train import log
from vitascope.train.engine import Engine, Ranks
from vitascope.train.job import Job
from vitascope.train.step import take_step

WARM_UP = 3
PRODUCTS = 5  # matrix products, timed together
PLAIN_LINEAR = functional.linear
AWAY_FROM_ZERO = ["train.lr=1e-3", "train.warmup_steps=0"]
"""Next to the model's initial zeros, values are denormal, which CPUs compute slowly."""


@dataclass(frozen=True)
class Shapes:
    """The training on a kind of device: latents T h w in turn, and settings."""

    latents: list[tuple[int, int, int]]
    n_samples: int
    channels: int
    text_dim: int
    matmul: int
    settings: list[str]


SHAPES = {
    "cpu": Shapes(  # the demo's model on packs that take a second; 70 to 175 patches a sample
        latents=[(1, 14, 20), (3, 12, 18), (5, 10, 16), (5, 14, 10)],
        n_samples=512,
        channels=64,
        text_dim=384,
        matmul=2048,
        settings=["model.depth=4", "model.width=192", "model.heads=6", "feed.token_budget=8192"],
    ),
    "cuda": Shapes(  # 0.64 billion parameters; 256 to 14,040 patches a sample
        latents=[(1, 32, 32), (9, 30, 52), (17, 44, 30), (9, 60, 104), (1, 90, 160)],
        n_samples=256,
        channels=16,
        text_dim=1024,
        matmul=8192,
        settings=["model.depth=24", "model.width=1280", "model.heads=10", "feed.token_budget=32768"],
    ),
}


def make_latents(folder: str, shapes: Shapes) -> None:
    """Commits one shard of random latents to a folder."""
    generator = torch.Generator().manual_seed(0)
    encoded = []
    for number in range(shapes.n_samples):
        frames, height, width = shapes.latents[number % len(shapes.latents)]
        latent = torch.randn(frames, height, width, shapes.channels, generator=generator)
        text = torch.randn(10 + number % 30, shapes.text_dim, generator=generator)
        size = (4 * frames - 3, 8 * height, 8 * width, frames * height * width // 4)
        task = EncodeTask(number, f"{number}", *("", "", "", "video"), 0.0, 8.0, "pyav", "train", "", *size)
        encoded.append(Encoded(task, latent, text, 0.0))
    rows = shard_table(0, encoded)
    samples = rows.select(records.SAMPLES.names)
    none = Moments.none(shapes.channels)
    note = ShardNote("0", shapes.text_dim, len(rows), facts_hash(samples), [], none)
    write_shard(shard_uri(folder, 0), rows, note)
    write_index(folder, samples)
    storage.put_json(f"{folder}/encode.json", {"text_dim": shapes.text_dim})


@dataclass(frozen=True, eq=False)
class Bench:
    """The inputs of both loops: the job, the ranks, and this rank's packs of every step."""

    job: Job
    source: Source
    ranks: Ranks
    with_ray: bool
    packs: list[dict[tuple[int, ...], Pack]]  # by epoch, window, step and number

    def feed(self) -> Feed:
        """Ours: from Ray Data, or from the packs in memory."""
        ready = {place: pack for step in self.packs for place, pack in step.items()}

        def load(_: Source, packs: list[PlannedPack]) -> Iterator[Pack]:
            return (ready[pack] for pack in packs)

        return Feed(
            self.source,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            prefetch_packs=self.job.settings.feed.prefetch_packs,
            load=None if self.with_ray else load,
        )

    def ours(self, feed: Feed) -> Iterator[log.Row]:
        """Runs one of our steps for every requested row."""
        train = self.job.settings.train
        torch.manual_seed(self.job.settings.run.seed)
        model = self.job.card.build()
        model.activation_checkpointing = train.activation_checkpointing
        assert self.job.card.precision is not None, "make_job has chosen it"
        engine = Engine(
            model.to(self.ranks.device),
            train,
            self.ranks,
            passes=feed.passes,
            precision=self.job.card.precision,
        )
        steps = log.StepLog(self.job.metrics, 0)
        publish = publisher(self.job.settings) if self.with_ray else lambda _: None
        for step in feed.steps(Position(), len(self.packs)):
            row = take_step(engine, self.ranks, step).row
            steps.write(row)
            publish(row)
            yield row

    def bare(self) -> Iterator[None]:
        """Runs one step of the bare loop for every requested item."""
        torch.manual_seed(self.job.settings.run.seed)
        model = self.job.card.build().to(self.ranks.device, dtype_of(self.job))
        loop = Bare(model, self.job.settings.train)
        for packs in self.packs:
            with plain_linear():
                if packs:  # with few samples a rank may have none
                    loop.step([pack.to(self.ranks.device) for pack in packs.values()])
            yield


@contextmanager
def plain_linear() -> Iterator[None]:
    """torch's own linear; DeepSpeed globally replaces it by one that keeps no gathered weight."""
    theirs, functional.linear = functional.linear, PLAIN_LINEAR
    try:
        yield
    finally:
        functional.linear = theirs


def publisher(settings: Settings) -> Callable[[log.Row], None]:
    """Ray's metrics, as training publishes them."""
    from vitascope.metrics import Publisher

    return Publisher(run=settings.run.folder).publish


def packs_of(source: Source, ranks: Ranks, n_steps: int) -> list[dict[tuple[int, ...], Pack]]:
    """A rank's packs of the first `n_steps` steps."""
    mine = [n for n in ranks_share(source.packs_per_step, ranks.size, ranks.rank) if n != NO_PACK]
    walk = islice(planned(source).planner.walk(Position()), n_steps)
    return [
        {(at.epoch, at.window, at.step, n): load_pack(source, at, n) for n in mine if len(plan.packs[n])}
        for at, plan in walk
    ]


Times = tuple[float, float]
"""Seconds of wall time, and of processor time."""


@dataclass
class Blocks:
    """Times of each block of steps or products, and the rows of our steps."""

    ours: list[Times] = field(default_factory=list)
    bare: list[Times] = field(default_factory=list)
    matmul: list[Times] = field(default_factory=list)
    rows: list[log.Row] = field(default_factory=list)


def measure(bench: Bench, args: argparse.Namespace) -> dict[str, object]:
    """All figures of a run."""
    device, blocks, size = bench.ranks.device, Blocks(), SHAPES[args.device].matmul
    feed = bench.feed()
    ours = bench.ours(feed)
    warm_up = list(islice(ours, WARM_UP))
    peak_memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    bare = bench.bare()
    list(islice(bare, WARM_UP))
    square = torch.randn(size, size, device=device).to(dtype_of(bench.job))
    square @ square

    def products() -> None:
        for _ in range(PRODUCTS):
            square @ square

    def run_ours() -> None:
        blocks.ours.append(timed(lambda: blocks.rows.extend(islice(ours, args.block)), device))

    def run_bare() -> None:
        blocks.bare.append(timed(lambda: list(islice(bare, args.block)), device))

    for number in range(args.rounds):
        for run in (run_ours, run_bare) if number % 2 else (run_bare, run_ours):
            run()
        blocks.matmul.append(timed(products, device))
        last = {"ours": blocks.ours, "bare": blocks.bare, "matmul": blocks.matmul}
        print(*(f"{name} {times[-1][0]:.3f} s" for name, times in last.items()), flush=True)
    figures = summary(blocks, PRODUCTS * 2 * size**3, bench.ranks.size)
    if not bench.with_ray:
        figures["data_wait_share"] = None
    return figures | {"peak_memory_bytes": peak_memory, "loss_first": warm_up[0]["loss"]}


def dtype_of(job: Job) -> torch.dtype:
    """The data type of both loops and of the matrix products."""
    assert job.card.precision is not None, "make_job has chosen it"
    return precision.DTYPES[job.card.precision]


def timed(run: Callable[[], object], device: torch.device) -> Times:
    """Waits until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def summary(blocks: Blocks, matmul_flops: int, world_size: int) -> dict[str, object]:
    """Medians over the blocks."""
    per_block = len(blocks.rows) // len(blocks.ours)
    (ours, ours_cpu), (bare, bare_cpu) = np.array(blocks.ours).T, np.array(blocks.bare).T
    rows = blocks.rows
    seconds = np.array([row["step_s"] for row in rows])
    flops = np.array([row["flops_per_s"] for row in rows]) * seconds / world_size
    tokens = np.array([row["tokens"] for row in rows])
    peak = matmul_flops / float(np.median([wall for wall, _ in blocks.matmul]))

    def rate(amounts: np.ndarray) -> float:
        return float(np.median(amounts.reshape(-1, per_block).sum(axis=1) / ours))

    return {
        "step_over_bare": round(float(np.median(ours) / np.median(bare)), 4),
        "step_over_bare_quartiles": [round(float(q), 4) for q in np.quantile(ours / bare, [0.25, 0.75])],
        "step_over_bare_cpu": round(float(np.median(ours_cpu) / np.median(bare_cpu)), 4),
        "flops_over_matmul_peak": round(rate(flops) / peak, 4),
        "data_wait_share": round(float(np.average([r["data_wait_share"] for r in rows], weights=seconds)), 5),
        "tokens_per_s": round(rate(tokens)),
        "tokens_per_step": round(float(tokens.mean())),
        "step_s": round(float(np.median(ours)) / per_block, 4),
        "bare_step_s": round(float(np.median(bare)) / per_block, 4),
        "model_flops_per_s": round(rate(flops)),
        "matmul_flops_per_s": round(peak),
    }


def start_ray(args: argparse.Namespace, world_size: int) -> bool:
    """Starts or joins Ray, unless it is disabled or not installed."""
    if args.no_ray or not find_spec("ray"):
        return False
    if world_size > 1:
        raise ValueError("torchrun's ranks would each start a Ray cluster; add --no-ray")
    from vitascope.cluster.local import connect
    from vitascope.cluster.settings import ClusterSettings

    connect(ClusterSettings())
    return True


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=SHAPES, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, on a CPU")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--block", type=int, default=2, help="steps of a block")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="settings")
    return parser.parse_args()


def make_job(folder: str, args: argparse.Namespace, world_size: int) -> Job:
    """Random latents in `folder`, and the job that trains on them; one pack a step for each rank."""
    shapes = SHAPES[args.device]
    make_latents(f"{folder}/latents", shapes)
    overrides = [f"run.folder={folder}", f"train.use_gpu={str(args.device == 'cuda').lower()}"]
    overrides += [f"feed.packs_per_step={world_size}", *AWAY_FROM_ZERO, *shapes.settings, *args.set]
    settings = config.load(None, overrides)
    machine = precision.inspect(torch.device(args.device))
    chosen, sentence = precision.choose(settings.train.precision, None, machine)
    print(sentence, flush=True)
    card = ModelCard(
        model=settings.model,
        encode=settings.encode,
        channels=shapes.channels,
        text_dim=shapes.text_dim,
        fingerprint="random",
        step=0,
        precision=chosen,
    )
    return Job(
        settings=settings,
        latents=f"{folder}/latents",
        metrics=f"{folder}/metrics",
        samples="random",
        card=as_trained(card, settings.train),
    )


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    ranks = start_ranks(args.device)
    with_ray = start_ray(args, ranks.size)
    with TemporaryDirectory() as folder:
        job = make_job(folder, args, ranks.size)
        source = job.source("train", job.draws)
        packs = packs_of(source, ranks, WARM_UP + args.rounds * args.block)
        figures = measure(Bench(job, source, ranks, with_ray, packs), args)
    about = {
        "device": torch.cuda.get_device_name(ranks.device) if args.device == "cuda" else "cpu",
        "threads": args.threads,
        "torch": torch.__version__,
        "dtype": job.card.precision,
        "n_parameters": sum(p.numel() for p in job.card.build().parameters()),
        "token_budget": job.settings.feed.token_budget,
        "world_size": ranks.size,
        "ray": with_ray,
    }
    if ranks.rank == 0:
        print(json.dumps(figures | about))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
