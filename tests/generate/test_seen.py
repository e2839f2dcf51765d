"""A set of millions of names."""

import random
import sys

import numpy as np
import pytest

from vitascope.generate.batch import seen
from vitascope.generate.batch.seen import Seen


def test_it_is_a_set_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_LATEST", 7)
    rng, names, reference = random.Random(0), Seen(), set()
    for _ in range(3000):
        name = f"name {rng.randrange(1500)}"
        assert (name in names) == (name in reference)
        assert names.add(name) == (name not in reference)
        reference.add(name)
        assert name in names
    assert all(f"name {n}" in names for n in range(1500) if f"name {n}" in reference)


def test_a_name_takes_eight_bytes_and_a_look_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_LATEST", 1 << 10)
    names = Seen()
    for number in range(100_000):
        names.add(str(number))
    sizes = [part.nbytes for part in names._sorted]
    assert sum(sizes) <= 8 * 100_000
    assert len(sizes) <= np.log2(100_000 / 1024) + 1
    assert sys.getsizeof(names._latest) < 100_000
