"""Culprits are found, nobody else is harmed, and the work is bounded."""

import math
import random
from collections.abc import Sequence

import pytest

from vitascope.generate.denoise.divide import Broken, Failure, each


class Pass:
    """Doubles its items; fails on every call with one of `bad`, and on the calls numbered in `transient`."""

    def __init__(self, bad: set[int], transient: Sequence[int] = (), error: Exception | None = None) -> None:
        self.bad, self.transient, self.calls = bad, transient, 0
        self.error = error or RuntimeError("no")

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.calls += 1
        if self.bad & set(items) or self.calls in self.transient:
            raise self.error
        return [2 * item for item in items]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 40, 129])
def test_one_culprit_is_found_in_a_logarithm_of_calls(n: int) -> None:
    for culprit in range(n):
        run = Pass({culprit})
        found = each(range(n), run)
        assert [f for i, f in enumerate(found) if i != culprit] == [2 * i for i in range(n) if i != culprit]
        assert found[culprit] == Failure("RuntimeError: no")
        assert run.calls <= 2 * math.ceil(math.log2(n)) + 3


@pytest.mark.parametrize("seed", range(10))
def test_any_culprits_are_found_and_calls_are_bounded(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randrange(1, 60)
    bad = {i for i in range(n) if rng.random() < rng.choice([0.05, 0.5, 1.0])}
    run = Pass(bad)
    assert [isinstance(f, Failure) for f in each(range(n), run)] == [i in bad for i in range(n)]
    assert run.calls <= 3 * n


def test_what_happens_once_harms_nobody_and_divides_nothing() -> None:
    run = Pass(set(), transient=[1])
    assert each(range(8), run) == [2 * i for i in range(8)]
    assert run.calls == 2


@pytest.mark.parametrize("transient", [[1, 2], [1, 2, 4]])
def test_what_happens_a_few_times_harms_nobody(transient: list[int]) -> None:
    assert each(range(8), Pass(set(), transient)) == [2 * i for i in range(8)]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_pass_too_large_for_the_memory_is_divided_at_once(error: Exception) -> None:
    sizes = []

    def run(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 2:
            raise error
        return list(items)

    assert each(range(8), run) == list(range(8))
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_reasons_are_one_line_of_bounded_length() -> None:
    found = each([1], Pass({1}, error=RuntimeError("a\nb" * 10_000)))[0]
    assert isinstance(found, Failure)
    assert found.detail.startswith("RuntimeError: a ba b")
    assert len(found.detail) < 600


def test_nothing_is_run_for_nothing() -> None:
    run = Pass(set())
    assert each([], run) == []
    assert run.calls == 0


def test_where_nothing_can_succeed_it_ends_at_once() -> None:
    run = Pass({3}, error=Broken("the device is lost"))
    with pytest.raises(Broken, match="device is lost"):
        each(range(8), run)
    assert run.calls == 1
