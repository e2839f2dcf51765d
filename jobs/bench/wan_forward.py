"""Measures our packed pass of Wan's transformer against Diffusers' on the same samples and weights.

    python jobs/bench/wan_forward.py [--device cuda] [--threads 2] [--rounds 3] [--cases mix]

Ours is one pack of the samples at their native sizes. Diffusers' WanTransformer3DModel gets them in two ways:
batched, which without packing means that every sample is computed at the largest grid, and one by one at
native size. It pads captions with zeros to Wan's 512 positions; ours computes one pad, which counts as many.

one_size: samples of one grid, whose batch needs no padding, with captions of different lengths.
one_size_full_text: the same with captions of 512 tokens, so that no position of the text is padding.
mix: images and videos of different grids, with captions of different lengths.

Each is measured as a forward pass, without gradients, and as forward and backward, with gradients of all
weights. The inputs are in memory; what Pack derives from its grids is computed in each pass. The three ways
take turns, in an order that rotates, and tokens are those of the samples, without padding. On a CPU all
compute in float32, on a GPU in bfloat16. Before that, each sample's velocities in our pack must equal theirs
for the sample alone in float32, within 1e-5 of the largest.

The last line is one JSON object. over_batched and over_one_by_one are ours over theirs in tokens per second,
of median times; the quartiles are of the rounds' ratios, a measure of noise; _cpu is the ratio in this
process's processor time, for CPUs with other work.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from vitascope.feed.packs import Pack, Segment, collate
from vitascope.feed.patches import Grid, patchify
from vitascope.model.settings import ModelSettings
from vitascope.model.wan import TEXT_POSITIONS, Wan

if TYPE_CHECKING:  # other benchmarks use the samples without it
    from diffusers import WanTransformer3DModel

TOLERANCE = 1e-5
CASES = ("one_size", "one_size_full_text", "mix")
WAYS = ("ours", "batched", "one_by_one")
Times = dict[str, list[tuple[float, float]]]
"""Seconds of wall time and of processor time of each round, by way."""


@dataclass(frozen=True)
class Shapes:
    """The network and the samples on a kind of device: grids of patches, and tokens of captions."""

    settings: ModelSettings
    channels: int
    text_dim: int
    one_size: Grid
    mix: tuple[Grid, ...]  # the last one is the largest along each axis
    captions: tuple[int, ...]

    def cases(self) -> dict[str, list["Sample"]]:
        """The samples of each measurement."""
        same = [self.one_size] * len(self.captions)
        made = (
            self.samples(same, self.captions),
            self.samples(same, [TEXT_POSITIONS] * len(same)),
            self.samples(self.mix, self.captions),
        )
        return dict(zip(CASES, made, strict=True))

    def samples(self, grids: Sequence[Grid], captions: Sequence[int]) -> list["Sample"]:
        """Random ones, each with one noise level for all frames."""
        generator, patch = torch.Generator().manual_seed(0), self.settings.patch
        made = []
        for (frames, rows, columns), n_text in zip(grids, captions, strict=True):
            latent = torch.randn(frames, rows * patch, columns * patch, self.channels, generator=generator)
            text = torch.randn(n_text, self.text_dim, generator=generator)
            level = float(torch.rand((), generator=generator))
            made.append(Sample(latent, (frames, rows, columns), level, text, patch))
        return made

    def models(self) -> tuple[Wan, "WanTransformer3DModel"]:
        """Ours and theirs with the same random weights, none of them zero."""
        from diffusers import WanTransformer3DModel

        torch.manual_seed(0)
        theirs = WanTransformer3DModel(
            num_attention_heads=self.settings.heads,
            attention_head_dim=self.settings.width // self.settings.heads,
            num_layers=self.settings.depth,
            ffn_dim=self.settings.hidden,
            in_channels=self.channels,
            out_channels=self.channels,
            text_dim=self.text_dim,
            patch_size=(1, self.settings.patch, self.settings.patch),
        )
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        ours = Wan(self.settings, self.channels, self.text_dim)
        ours.load_state_dict(theirs.state_dict())
        return ours, theirs


SHAPES = {
    "cpu": Shapes(
        ModelSettings(network="wan", depth=4, width=384, heads=6, ffn=1536),
        channels=16,
        text_dim=256,
        one_size=(3, 8, 12),
        mix=((1, 8, 8), (1, 12, 16), (5, 8, 12), (9, 12, 16)),
        captions=(12, 40, 77, 150),
    ),
    "cuda": Shapes(  # 8 of the 30 blocks of Wan 2.1 1.3B
        ModelSettings(network="wan", depth=8, width=1536, heads=12, ffn=8960),
        channels=16,
        text_dim=4096,
        one_size=(5, 30, 52),
        mix=((1, 30, 52), (5, 30, 30), (9, 16, 28), (9, 30, 52)),
        captions=(12, 40, 77, 150),
    ),
}


@dataclass(frozen=True, eq=False)
class Sample:
    """A latent (T, h, w, C) with its grid, a noise level for all frames, and text states."""

    latent: torch.Tensor
    grid: Grid
    level: float
    text: torch.Tensor
    patch: int

    @property
    def segment(self) -> Segment:
        """The sample in a pack."""
        levels = torch.full((self.grid[0],), self.level)
        return Segment(patchify(self.latent, self.patch), self.grid, levels, self.text)


@dataclass(frozen=True, eq=False)
class Batch:
    """Diffusers' inputs: latents (B, C, T, h, w), timesteps (B,) from 0 to 1000, text (B, 512, text_dim)."""

    latents: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Batch":
        """The samples, all padded to the largest."""
        size = torch.tensor([sample.latent.shape[:3] for sample in samples]).amax(dim=0).tolist()
        return cls(
            torch.stack([padded(sample.latent, size).permute(3, 0, 1, 2) for sample in samples]),
            1000 * torch.tensor([sample.level for sample in samples]),
            torch.stack([padded(sample.text, [TEXT_POSITIONS]) for sample in samples]),
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        """On a device and in a precision, except the timesteps, which are never rounded."""
        return Batch(self.latents.to(device, dtype), self.timesteps.to(device), self.text.to(device, dtype))

    def through(self, model: "WanTransformer3DModel") -> torch.Tensor:
        """Velocities (B, C, T, h, w)."""
        return model(self.latents, self.timesteps, self.text, return_dict=False)[0]


@dataclass(frozen=True, eq=False)
class Bench:
    """Both networks, in float32 on a device."""

    ours: Wan
    theirs: "WanTransformer3DModel"
    device: torch.device

    @cached_property
    def dtype(self) -> torch.dtype:
        """In which the passes are timed."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def difference(self, samples: Sequence[Sample]) -> float:
        """The largest of all samples' differences from theirs, relative to the sample's largest velocity."""
        pack = collate([sample.segment for sample in samples]).to(self.device)
        worst = 0.0
        with torch.no_grad():
            for sample, found in zip(samples, pack.split(self.ours(pack)), strict=True):
                theirs = Batch.of([sample]).to(self.device, torch.float32).through(self.theirs)[0]
                expected = patchify(theirs.permute(1, 2, 3, 0), sample.patch)
                worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
        return worst

    def passes(self, samples: Sequence[Sample], *, backward: bool) -> dict[str, Callable[[], None]]:
        """One pass of all samples, by way."""
        pack = collate([sample.segment for sample in samples]).to(self.device)
        batches = {
            "batched": [Batch.of(samples).to(self.device, self.dtype)],
            "one_by_one": [Batch.of([sample]).to(self.device, self.dtype) for sample in samples],
        }

        def ours() -> None:
            run(self.ours, [lambda: self.ours(fresh(pack))], backward=backward)

        def theirs(name: str) -> Callable[[], None]:
            forwards = [lambda batch=batch: batch.through(self.theirs) for batch in batches[name]]
            return lambda: run(self.theirs, forwards, backward=backward)

        return {"ours": ours} | {name: theirs(name) for name in batches}


def padded(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """x (…, C) with zeros appended along the axes before the last, up to `size`."""
    missing = [most - n for most, n in zip(size, x.shape, strict=False)]
    return functional.pad(x, [0, 0, *(pad for n in reversed(missing) for pad in (0, n))])


def fresh(pack: Pack) -> Pack:
    """The same pack without what it has derived from its grids."""
    return Pack(**pack.tensors())


def run(model: torch.nn.Module, forwards: Sequence[Callable[[], torch.Tensor]], *, backward: bool) -> None:
    """Runs them, or also the gradients of half of the velocities' squares, added up."""
    model.zero_grad(set_to_none=True)
    with torch.set_grad_enabled(backward):
        for forward in forwards:
            out = forward()
            if backward:
                out.backward(out.detach())


def timed(work: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Seconds of wall time and of processor time until the device is done."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def measured(passes: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> Times:
    """The ways in turn, after one of each to warm up."""
    for work in passes.values():
        timed(work, device)
    times: Times = {name: [] for name in passes}
    for number in range(rounds):
        for k in range(len(WAYS)):
            name = WAYS[(number + k) % len(WAYS)]
            times[name].append(timed(passes[name], device))
    return times


def figures(times: Times, n_tokens: int) -> dict[str, object]:
    """Tokens per second and the ratios of one measurement."""
    wall = {name: np.array([seconds for seconds, _ in times[name]]) for name in WAYS}
    cpu = {name: np.array([seconds for _, seconds in times[name]]) for name in WAYS}
    found: dict[str, object] = {"tokens": n_tokens}
    for name in WAYS:
        found[f"{name}_tokens_per_s"] = round(n_tokens / float(np.median(wall[name])))
    for name in WAYS[1:]:
        quartiles = np.quantile(wall[name] / wall["ours"], [0.25, 0.75])
        found[f"over_{name}"] = round(float(np.median(wall[name]) / np.median(wall["ours"])), 3)
        found[f"over_{name}_quartiles"] = [round(float(quartile), 3) for quartile in quartiles]
        found[f"over_{name}_cpu"] = round(float(np.median(cpu[name]) / np.median(cpu["ours"])), 3)
    return found


def processor(device: torch.device) -> str:
    """The name of the GPU, or of the CPU and the instructions that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    names = [value.strip() for key, _, value in lines if key.strip() == "model name"]
    return f"{len(names)} x {names[0]}, {torch.backends.cpu.get_cpu_capability()}"


def benchmark(bench: Bench, cases: dict[str, list[Sample]], rounds: int) -> dict[str, object]:
    """All figures; prints a line of each measurement."""
    differences = {name: bench.difference(samples) for name, samples in cases.items()}
    assert max(differences.values()) <= TOLERANCE, f"ours is not theirs: {differences}"
    if bench.dtype != torch.float32:
        bench.ours.to(bench.dtype)
        bench.theirs.to(bench.dtype)
    columns = [f"{name}_tokens_per_s" for name in WAYS]
    columns += [f"over_{name}{kind}" for name in WAYS[1:] for kind in ("", "_cpu")]
    print(" " * 35, *columns)
    rows: dict[str, object] = {}
    for case, samples in cases.items():
        n_tokens = sum(len(sample.segment.tokens) for sample in samples)
        for mode in ("forward", "forward_backward"):
            passes = bench.passes(samples, backward=mode == "forward_backward")
            row = figures(measured(passes, rounds, bench.device), n_tokens)
            rows[f"{case}_{mode}"] = row
            cells = (str(row[column]).rjust(len(column)) for column in columns)
            print(f"{case}_{mode}".ljust(35), *cells, flush=True)
    return {"largest_difference": max(differences.values()), "precision": str(bench.dtype), **rows}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=SHAPES, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, on a CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False  # the comparison's convolutions are in float32
    device, shapes = torch.device(args.device), SHAPES[args.device]
    ours, theirs = shapes.models()
    bench = Bench(ours.to(device), theirs.to(device), device)
    samples = shapes.cases()
    result = {"processor": processor(device), "threads": args.threads, "rounds": args.rounds}
    result |= benchmark(bench, {name: samples[name] for name in args.cases}, args.rounds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
