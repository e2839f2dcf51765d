"""A set of names that may grow to millions."""

import numpy as np

from vitascope.records import stable_int

_LATEST = 1 << 16  # names that wait to be sorted in


class Seen:
    """The names that were added, each kept as a number of 8 bytes (16 for a moment, while they are merged).

    Names are compared by 63 bits of a hash: one in 200,000 sets of ten million names takes a new name for an
    old one.
    """

    def __init__(self) -> None:
        self._latest: set[int] = set()
        self._sorted: list[np.ndarray] = []  # each at least twice as long as the next

    def __contains__(self, name: str) -> bool:
        return self._has(stable_int(name))

    def add(self, name: str) -> bool:
        """Adds a name; returns whether it is new."""
        number = stable_int(name)
        if self._has(number):
            return False
        self._latest.add(number)
        if len(self._latest) >= _LATEST:
            self._merge()
        return True

    def _has(self, number: int) -> bool:
        return number in self._latest or any(_holds(part, number) for part in self._sorted)

    def _merge(self) -> None:
        merged = np.fromiter(self._latest, np.int64, len(self._latest))
        while self._sorted and len(self._sorted[-1]) < 2 * len(merged):
            merged = np.concatenate([self._sorted.pop(), merged])
        merged.sort()
        self._sorted.append(merged)
        self._latest = set()


def _holds(part: np.ndarray, number: int) -> bool:
    index = int(part.searchsorted(np.int64(number)))
    return index < len(part) and int(part[index]) == number
