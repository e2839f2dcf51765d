"""Divides a failing pass until the culprit is alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vitascope.errors import in_a_line

Item = TypeVar("Item")
Result = TypeVar("Result")

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # in torch's errors


@dataclass(frozen=True)
class Failure:
    """Why an item has no result."""

    detail: str
    out_of_memory: bool = False


class Broken(RuntimeError):
    """No later work of this process can succeed: it has to be restarted."""


Run = Callable[[Sequence[Item]], Sequence[Result]]


def each(items: Sequence[Item], run: Run[Item, Result]) -> list[Result | Failure]:
    """The result of every item, or why it has none; `run` computes many at once, and fails as a whole.

    Errors of `run` may be transient, so the same items run once more, unless memory was short, which only
    smaller groups can fix. If they fail again they are divided in halves, and so on; an item that fails twice
    alone is given up. With one culprit among n items `run` is called at most 2 ⌈log2 n⌉ + 3 times, and at
    most 3 n times whatever fails. `run` must not change items.

    Raises:
        Broken: if `run` does.
    """
    return _each(items, run, tries=2) if items else []


def _each(items: Sequence[Item], run: Run[Item, Result], *, tries: int) -> list[Result | Failure]:
    alone = len(items) == 1
    outcome = _attempt(items, run)
    if isinstance(outcome, Failure) and (alone or (tries > 1 and not outcome.out_of_memory)):
        outcome = _attempt(items, run)
    if not isinstance(outcome, Failure):
        return list(outcome)
    if alone:
        return [outcome]
    halves = items[: len(items) // 2], items[len(items) // 2 :]
    return [result for half in halves for result in _each(half, run, tries=1)]


def _attempt(items: Sequence[Item], run: Run[Item, Result]) -> Sequence[Result] | Failure:
    """Returns the failure without the exception, whose traceback would keep the pass's memory alive."""
    try:
        return run(items)
    except Broken:
        raise
    except Exception as error:  # a model's error must reach its own request, and stop no other
        return Failure(in_a_line(error), is_out_of_memory(error))


def is_out_of_memory(error: Exception) -> bool:
    """Whether the pass was too large for the memory of its device."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)
