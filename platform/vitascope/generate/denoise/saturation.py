"""The pack size from which on a larger pass gains nothing.

Below it a pass takes about as long whatever it holds, because the device waits for the kernels to start and
for the weights; above it the time grows with the pack, and throughput is flat.
"""

import fcntl
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import prod

import torch

from vitascope import storage
from vitascope.encode import machine
from vitascope.feed.patches import Grid
from vitascope.generate.denoise import divide, sampler
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work
from vitascope.generate.denoise.schedule import Schedule
from vitascope.model.formats.card import ModelCard
from vitascope.records import stable_id

_LOG = logging.getLogger("ray.serve")  # the replica's log
_FLAT = 0.95  # of the best throughput: the last twentieth would double the time of a pass
_TRIES, _TRIED_S = 5, 0.2  # of each size, at least
_LIMIT_S = 10.0
_LEAST_SIZES = 4  # are measured, even if they take longer than the limit
_SMALLEST = 16
_SEGMENT: Grid = (4, 8, 8)  # of larger packs
_GRIDS: dict[int, Grid] = {16: (1, 4, 4), 32: (1, 4, 8), 64: (1, 8, 8), 128: (2, 8, 8), 256: _SEGMENT}
_TEXT_TOKENS = 16
_FORMAT = "1"

Point = tuple[float, float]
"""The cost of a pack, in patches of a tiny image, and the seconds of a pass."""


@dataclass(frozen=True)
class Saturation:
    """The cost of a pass from which on throughput is flat, and the points that it follows from.

    is_flat: whether a pass of twice the cost was measured; if not, the limit was reached before.
    """

    cost: float
    is_flat: bool
    points: tuple[Point, ...]


def saturation(points: Sequence[Point]) -> Saturation:
    """The smallest cost at which throughput reaches 95 % of the best, between points on a straight line.

    Times are first made to grow with the cost (isotonic regression), so that a pass which was slow or fast by
    chance does not decide.
    """
    ordered = sorted(points)
    costs, seconds = [cost for cost, _ in ordered], _growing([seconds for _, seconds in ordered])
    rates = [cost / s for cost, s in zip(costs, seconds, strict=True)]
    enough = _FLAT * max(rates)
    at = next(i for i, rate in enumerate(rates) if rate >= enough)
    cost = costs[at]
    if at > 0:
        part = (enough - rates[at - 1]) / (rates[at] - rates[at - 1])
        cost = costs[at - 1] + part * (costs[at] - costs[at - 1])
    return Saturation(cost, costs[-1] >= 2 * cost, tuple(ordered))


def _growing(values: Sequence[float]) -> list[float]:
    """The nearest sequence, in squares, that nowhere falls (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return [value for value, n in pools for _ in range(n)]


def measured(
    run: Callable[[int], float],
    most_tokens: int,
    *,
    limit_s: float = _LIMIT_S,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Point]:
    """Passes of more and more patches: the cost that `run` returns, and the least of a few times:
    on a machine with other work the others say more of that.

    Ends when two doublings gain less than a twentieth of throughput, at `most_tokens`, when memory is short,
    or when the next size would take longer than what is left of `limit_s` (after four sizes).
    """
    began, points, n_tokens = clock(), list[Point](), _SMALLEST
    while n_tokens <= most_tokens:
        left_s = limit_s - (clock() - began)
        if len(points) >= _LEAST_SIZES and (_is_flat(points) or 2 * points[-1][1] * (_TRIES + 1) > left_s):
            break
        try:
            points.append(_timed(run, n_tokens, clock))
        except Exception as error:
            if points and divide.is_out_of_memory(error):
                break
            raise
        n_tokens *= 2
    return points


def _timed(run: Callable[[int], float], n_tokens: int, clock: Callable[[], float]) -> Point:
    cost, times = run(n_tokens), list[float]()  # the first one warms up
    while len(times) < _TRIES or (sum(times) < _TRIED_S and len(times) < 4 * _TRIES):
        started = clock()
        run(n_tokens)
        times.append(clock() - started)
    return cost, min(times)


def _is_flat(points: Sequence[Point]) -> bool:
    *before, _, _ = rates = [cost / seconds for cost, seconds in points]
    return max(rates[-2:]) * _FLAT < max(before)


def passes(model: Experts, card: ModelCard) -> Callable[[int], float]:
    """Runs a pass of a number of patches, 16 times a power of 2, and returns its cost."""

    @torch.inference_mode()
    def run(n_tokens: int) -> float:
        grid = _GRIDS.get(n_tokens, _SEGMENT)
        works = [_work(grid, card, model.device)] * (n_tokens // prod(grid))
        velocities = model.velocities(works)
        for work, parts in zip(works, velocities, strict=True):
            sampler.advance(work, parts).is_finite()  # waits for the device
        return n_tokens * model.weight(prod(grid))

    return run


def _work(grid: Grid, card: ModelCard, device: str) -> Work:
    return Work(
        tokens=torch.ones(prod(grid), card.channels * card.model.patch**2, device=device),
        grid=grid,
        given=torch.zeros(grid[0], dtype=torch.bool, device=device),
        schedule=Schedule.of((1.0, 0.5, 0.0)),
        guidance=(1.0,),
        text=torch.ones(_TEXT_TOKENS, card.text_dim, device=device),
        negative=torch.zeros(0, card.text_dim, device=device),
    )


def of_machine(model: Experts, card: ModelCard, most_tokens: int, identity: str) -> Saturation:
    """That of the loaded model on this machine, measured once and kept in the machine's cache.

    Processes that start at once do not disturb each other's measurement: one measures, the others wait.
    """
    key = stable_id(_FORMAT, identity, _device(model.device), str(most_tokens), version("vitascope"))
    folder = machine.cache_folder("saturation")
    with (folder / "measuring").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (found := _kept(str(folder / key))) is None:
            began = time.perf_counter()
            with ThreadPoolExecutor(1) as once:  # its OpenMP threads end, too, and disturb no later pass
                points = once.submit(measured, passes(model, card), most_tokens).result()
            found = saturation(points)
            storage.put(str(folder / key), storage.json_bytes(asdict(found)))
            _LOG.info("Measured passes in %.1f s.", time.perf_counter() - began)
    sizes = ", ".join(f"{cost:.0f}: {1000 * seconds:.3g} ms" for cost, seconds in found.points)
    grows = "" if found.is_flat else "; larger ones may gain more"
    _LOG.info("A pass of cost %.0f saturates this device (%s%s).", found.cost, sizes, grows)
    return found


def _kept(uri: str) -> Saturation | None:
    with suppress(OSError, ValueError, TypeError, KeyError):
        document = storage.read_json(uri)
        points = tuple((float(cost), float(seconds)) for cost, seconds in document["points"])
        return Saturation(float(document["cost"]), bool(document["is_flat"]), points)
    return None


def _device(device: str) -> str:
    """What the time of a pass depends on, besides the model."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    with suppress(OSError), open("/proc/cpuinfo") as about:
        name = next((line for line in about if line.startswith("model name")), "")
        return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"{platform.processor()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads"
