"""Measures what steps without a pass save, and what they cost in quality.

    python jobs/bench/step_cache.py [--models dit wan] [--train-steps 300] [--requests 8] [--threads 2]

Small models of both networks are trained for some hundred steps on the synthetic latents of `trained.py`.
Requests of four sizes and eight prompts, with 30 steps and guidance 2, are generated with each solver at
quality exact, high and fast, and with the thresholds of --thresholds in their place.

passes: the mean number of 30. error: the norm of the difference of the latents to those of exact, divided by
their norm. psnr_db: of the latents, the peak being the range of exact's values. error_of_fewer_steps: that of
exact with as many steps as passes were taken, which is the cheap alternative. The last line is one JSON
object: by model, solver and quality (or threshold).

--invariant measures the cost of generate.invariant instead: processor seconds of a pass of 8 guided requests
that is shared, and of one that computes them one after another, by the patches of each; `ratio` is the
throughput of the second over that of the first.
"""

import argparse
import dataclasses
import json
import time
from statistics import fmean, median

import torch
from torch import Tensor
from trained import CHANNELS, SETTINGS, TEXT_DIM, card_of, text_of, trained, works

from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise import reuse
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work, advance, begin
from vitascope.generate.denoise.sampling import OURS
from vitascope.generate.request import Request
from vitascope.generate.settings import Quality

STEPS = 30
SOLVERS = ("euler", "unipc")
Row = dict[str, float]


@torch.inference_mode()
def finished(work: Work, experts: Experts) -> tuple[Tensor, int]:
    """The final tokens of a request that is alone, and its number of passes."""
    n_passes = 0
    while work.load.n_passes:
        work = advance(work, experts.velocities([work])[0])
        n_passes += 1
    return work.tokens, n_passes


def all_of(experts: Experts, network: str, n: int, **fields: object) -> list[tuple[Tensor, int]]:
    """Every request's result."""
    solver = fields.pop("solver")
    begun = works(network, n, OURS, **fields)
    return [finished(dataclasses.replace(work, solver=solver), experts) for work in begun]


def compared(found: list[Tensor], exact: list[Tensor]) -> tuple[float, float]:
    """The mean error and PSNR."""
    away, psnr = [], []
    for one, reference in zip(found, exact, strict=True):
        away.append(float((one - reference).norm() / reference.norm()))
        peak = reference.max() - reference.min()
        psnr.append(float(20 * torch.log10(peak / (one - reference).square().mean().sqrt())))
    return fmean(away), fmean(psnr)


def measured(experts: Experts, network: str, n: int, solver: str, quality: Quality) -> Row:
    """One line of the result."""
    exact = [tokens for tokens, _ in all_of(experts, network, n, solver=solver, steps=STEPS)]
    found = all_of(experts, network, n, solver=solver, steps=STEPS, quality=quality)
    passes = fmean(n_passes for _, n_passes in found)
    error, psnr = compared([tokens for tokens, _ in found], exact)
    fewer = all_of(experts, network, n, solver=solver, steps=round(passes))
    return {
        "passes": round(passes, 2),
        "error": round(error, 5),
        "psnr_db": round(psnr, 2),
        "error_of_fewer_steps": round(compared([tokens for tokens, _ in fewer], exact)[0], 5),
    }


def quality_of(network: str, options: argparse.Namespace) -> dict[str, dict[str, Row]]:
    """Of one model, by solver and quality."""
    experts = Experts([trained(network, options.train_steps)[0]])
    found: dict[str, dict[str, Row]] = {}
    for solver in SOLVERS:
        rows = {
            quality: measured(experts, network, options.requests, solver, quality)
            for quality in ("high", "fast")
        }
        for threshold in options.thresholds:
            kept, reuse.MOST_CHANGE["fast"] = reuse.MOST_CHANGE["fast"], threshold
            rows[str(threshold)] = measured(experts, network, options.requests, solver, "fast")
            reuse.MOST_CHANGE["fast"] = kept
        found[solver] = rows
        print(network, solver, json.dumps(rows), flush=True)
    return found


def invariant(n_rounds: int) -> dict[str, Row]:
    """The processor time of passes with and without `invariant`, by the patches of each request."""
    card = card_of("dit")
    model = card.build().eval()
    found: dict[str, Row] = {}
    for side in (4, 8, 16, 32):
        request = Request(
            custom_id="a", prompt="a", width=64, height=64, seconds=1, seed=1, steps=4, guidance=2
        )
        canvas = Canvas(torch.zeros(4, side, side, CHANNELS), torch.zeros(4, dtype=torch.bool))
        text = text_of(0), torch.zeros(0, TEXT_DIM)
        pack = [begin(request, canvas, text, card=card)] * 8
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(n_rounds + 1):
            for way, times in seconds.items():
                times.append(_seconds(Experts([model], invariant=way), pack))
        shared, one_by_one = (median(seconds[way][1:]) for way in (False, True))
        n_patches = str(4 * (side // SETTINGS["dit"].patch) ** 2)
        found[n_patches] = {"shared_s": shared, "invariant_s": one_by_one, "ratio": shared / one_by_one}
        print(n_patches, found[n_patches], flush=True)
    return found


@torch.inference_mode()
def _seconds(experts: Experts, pack: list[Work]) -> float:
    started = time.process_time()
    experts.velocities(pack)
    return time.process_time() - started


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["dit", "wan"])
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--thresholds", type=float, nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--invariant", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.invariant:
        print(json.dumps({"invariant": invariant(options.rounds)}))
    else:
        print(json.dumps({network: quality_of(network, options) for network in options.models}))


if __name__ == "__main__":
    main()
