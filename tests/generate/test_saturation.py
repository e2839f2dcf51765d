"""Where passes saturate the machine: from times with noise, in bounded time, kept in the machine's cache."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vitascope.generate.denoise import saturation
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.pace import Pace
from vitascope.generate.denoise.saturation import measured, of_machine, passes
from vitascope.generate.denoise.scheduler import Room
from vitascope.model.dit import DiT
from vitascope.model.formats.card import ModelCard

COSTS = [16.0 * 2**i for i in range(13)]  # to 65,536


def knee(at: float) -> Callable[[float], float]:
    """A pass that takes 1 s up to a cost, and longer in proportion above it."""
    return lambda cost: max(1.0, cost / at)


@pytest.mark.parametrize("at", [64, 1000, 5000, 16_000])
@pytest.mark.parametrize("seed", range(5))
def test_the_knee_is_found_in_noise(at: int, seed: int) -> None:
    rng = random.Random(seed)
    points = [(cost, knee(at)(cost) * rng.uniform(0.97, 1.03)) for cost in COSTS]
    rng.shuffle(points)
    found = saturation.saturation(points)
    assert 0.8 * at <= found.cost <= 1.6 * at  # sizes are doubled
    assert found.is_flat


def test_a_smooth_curve_saturates_where_a_twentieth_is_left() -> None:
    points = [(cost, 0.05 + cost / 1000) for cost in COSTS]  # 95 % of the best of the last at about 885
    assert 700 < saturation.saturation(points).cost < 1100


def test_one_slow_pass_and_falling_throughput_do_not_decide() -> None:
    times = {cost: knee(1024)(cost) for cost in COSTS} | {256.0: 3.0}
    assert 512 <= saturation.saturation(list(times.items())).cost <= 2048
    cache = [(cost, knee(1024)(cost) * (1.3 if cost > 4000 else 1)) for cost in COSTS]
    assert saturation.saturation(cache).cost == pytest.approx(1024, rel=0.1)


def test_what_never_flattens_is_said_so() -> None:
    found = saturation.saturation([(cost, 1.0) for cost in COSTS])
    assert found.cost > COSTS[-2]
    assert not found.is_flat
    assert saturation.saturation([(16.0, 1.0)]).cost == 16


class Machine:
    """A machine with a clock of its own."""

    def __init__(self, seconds: Callable[[float], float], memory: int = 10**9) -> None:
        self.now, self.seconds, self.memory, self.sizes = 0.0, seconds, memory, list[int]()

    def run(self, n_tokens: int) -> float:
        if n_tokens > self.memory:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        self.sizes.append(n_tokens)
        self.now += self.seconds(n_tokens)
        return float(n_tokens)

    def points(self, most: int, limit_s: float = 1e9) -> list[saturation.Point]:
        return measured(self.run, most, limit_s=limit_s, clock=lambda: self.now)


def test_measuring_ends_when_it_is_flat_and_at_every_limit() -> None:
    flat = Machine(knee(1024))
    assert flat.points(10**9)[-1][0] <= 8 * 1024
    assert Machine(lambda _: 1.0).points(1024)[-1][0] == 1024
    assert Machine(lambda _: 1.0, memory=256).points(10**9)[-1][0] == 256
    slow = Machine(lambda n: 0.1 * max(1.0, n / 10**6))
    slow.points(10**9, limit_s=10)
    assert slow.now < 10
    assert len(Machine(lambda _: 100.0).points(10**9, limit_s=10)) == 4  # too slow for the limit
    with pytest.raises(RuntimeError, match="out of memory"):
        Machine(lambda _: 1.0, memory=1).points(10**9)


def test_the_loaded_model_is_measured_once_on_a_machine(
    card: ModelCard, model: DiT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    n_passes = 0

    def counting(pack: object) -> torch.Tensor:
        nonlocal n_passes
        n_passes += 1
        return model(pack)

    experts = Experts([counting], squared=0.001)
    found = of_machine(experts, card, 1024, "a model")
    assert 16 <= found.cost <= 1024 * 1.256
    assert [cost for cost, _ in found.points][:2] == [16 * 1.016, 32 * 1.032]
    measured_passes = n_passes
    assert of_machine(experts, card, 1024, "a model") == found
    assert n_passes == measured_passes
    of_machine(experts, card, 256, "a model")
    of_machine(experts, card, 256, "another model")
    kept = [path for path in (tmp_path / "vitascope" / "saturation").iterdir() if path.name != "measuring"]
    assert len(kept) == 3
    for path in kept:
        json.loads(path.read_text())
        path.write_text('{"cost": "?"')
    assert of_machine(experts, card, 1024, "a model").cost > 0  # a damaged note is measured again


def test_a_measured_pass_is_one_of_the_model(card: ModelCard, model: DiT) -> None:
    sizes: list[int] = []

    def network(pack: object) -> torch.Tensor:
        velocities: torch.Tensor = model(pack)
        sizes.append(len(velocities))
        return velocities

    run = passes(Experts([network]), card)
    assert [run(n) for n in (16, 128, 1024)] == [16, 128, 1024]
    assert sizes == [16, 128, 1024]


def test_the_pace_of_passes_bounds_what_comes() -> None:
    room, pace = Room(1000, 100.0), Pace()
    assert (pace.least_s(50), pace.limit_s(50, room)) == (0, 1800)
    pace = Pace([(10.0, 0.5), (100.0, 1.0)])
    assert pace.least_s(10) == 0.5
    assert pace.least_s(1000) == 10  # at the best rate
    assert pace.usual_s(1000, room) == 10
    pace.add(50.0, 2.0, room)
    pace.add(200.0, 40.0, room)
    assert pace.usual_s(50, room) == pytest.approx(100 * (0.02 + 0.1 * 0.18))
    assert pace.limit_s(1, room) == 20 * 0.2 * 100
    assert pace.limit_s(1000, room) == 20 * 0.2 * 1000
