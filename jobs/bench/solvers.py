"""Measures how far a solver is from the exact solution, over the number of its steps.

    python jobs/bench/solvers.py [--models dit wan] [--train-steps 300] [--threads 2]

mixture: the velocity of a mixture of eight Gaussians in 16 dimensions, which is known exactly, in float64;
256 points go from noise to data at the noise levels of our own models for samples of 256, 1,024 and 16,384
patches, which are shifted differently. The reference is UniPC with 4,000 steps.

A model: small ones of both networks, trained for some hundred steps on the synthetic latents of `trained.py`;
3 requests of different sizes with guidance 2. The reference is UniPC with --reference steps.

An error is the norm of the difference divided by the norm of the reference. The last line is one JSON
object: the errors by problem, solver and number of steps, and `as_good_as_euler_30`, the fewest of these
steps with which each solver is as close to the reference as Euler's method with 30.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable

import torch
from torch import Tensor
from trained import trained, works

from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work, advance
from vitascope.generate.denoise.sampling import OURS
from vitascope.generate.denoise.schedule import spaced
from vitascope.generate.denoise.solvers import SOLVERS
from vitascope.model.dit import SMALLEST_TIMESTEP
from vitascope.model.flow import Shift

STEPS = (5, 8, 10, 15, 20, 25, 30, 50)
Errors = dict[str, dict[int, float]]


def velocity_of_mixture(x: Tensor, t: float, means: Tensor, std: float) -> Tensor:
    """E[noise - clean | x] (n, d) at noise level `t`, of equally likely Gaussians around `means` (k, d)."""
    variance = (1 - t) ** 2 * std**2 + t**2
    away = x[:, None] - (1 - t) * means
    responsible = torch.softmax(-away.square().sum(-1) / (2 * variance), dim=1)
    clean = (responsible[..., None] * (means + (1 - t) * std**2 / variance * away)).sum(1)
    return (x - clean) / t


def of_mixture(n_tokens: int) -> Errors:
    """The errors at the noise levels of samples of `n_tokens`."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(8, 16, generator=generator, dtype=torch.float64)
    start = torch.randn(256, 16, generator=generator, dtype=torch.float64)

    def solve(solver: str, steps: int) -> Tensor:
        levels = spaced(steps, n_tokens, Shift(1.0), smallest=SMALLEST_TIMESTEP).levels
        x, past = start, None
        for step in range(steps):
            velocity = velocity_of_mixture(x, levels[step], means, 0.3)
            x, past = SOLVERS[solver](x, velocity, (levels, step), past)
        return x

    reference = solve("unipc", 4000)
    return errors(lambda solver, steps: [solve(solver, steps)], [reference])


@torch.inference_mode()
def finished(work: Work, experts: Experts) -> Tensor:
    """The final tokens of a request that is alone."""
    while work.load.n_passes:
        work = advance(work, experts.velocities([work])[0])
    return work.tokens


def of_model(network: str, train_steps: int, reference: int) -> Errors:
    """The errors of requests to a trained model."""
    experts = Experts([trained(network, train_steps)[0]])

    def solve(solver: str, steps: int) -> list[Tensor]:
        begun = works(network, 3, OURS, steps=steps)
        return [finished(dataclasses.replace(work, solver=solver), experts) for work in begun]

    return errors(solve, solve("unipc", reference))


def errors(solve: Callable[[str, int], list[Tensor]], reference: list[Tensor]) -> Errors:
    """The mean error of each solver at each number of steps."""
    found: Errors = {}
    for solver in SOLVERS:
        found[solver] = {}
        for steps in STEPS:
            each = zip(solve(solver, steps), reference, strict=True)
            away = [float((x - exact).norm() / exact.norm()) for x, exact in each]
            found[solver][steps] = sum(away) / len(away)
        print(solver, {steps: round(error, 4) for steps, error in found[solver].items()}, flush=True)
    return found


def fewest(found: Errors) -> dict[str, int | None]:
    """The fewest steps of each solver with no more error than Euler's method has with 30."""
    most = found["euler"][30]
    return {
        solver: min((steps for steps, error in by_steps.items() if error <= most), default=None)
        for solver, by_steps in found.items()
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["dit", "wan"])
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--reference", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {f"mixture, {n} patches": of_mixture(n) for n in (256, 1024, 16_384)}
    for network in options.models:
        found[network] = of_model(network, options.train_steps, options.reference)
    least = {problem: fewest(by_solver) for problem, by_solver in found.items()}
    print(json.dumps({"errors": found, "as_good_as_euler_30": least}))


if __name__ == "__main__":
    main()
