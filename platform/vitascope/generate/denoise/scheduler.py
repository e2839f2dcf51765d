"""Selects the requests that join the next pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from vitascope.ledger import Reason, Rejected


@dataclass(frozen=True)
class Load:
    """A request's load: patches in every pass (all its segments), and the most remaining passes."""

    n_tokens: int
    n_passes: int


def check(load: Load, budget: int) -> None:
    """Refuses a request that exceeds every pass, because it would wait for ever.

    Raises:
        Rejected: TOO_MANY_TOKENS.
    """
    if load.n_tokens > budget:
        raise Rejected(
            Reason.TOO_MANY_TOKENS,
            f"{load.n_tokens} patches a pass, more than the budget of {budget} patches",
        )


def admit(running: Sequence[Load], waiting: Sequence[Load], budget: int) -> list[int]:
    """The indices of the `waiting` requests, oldest first, that join the `running` ones in the next pass.

    They join in order of arrival while they fit. When the oldest does not fit, younger ones may fill the
    remaining room, but only if they cannot delay it: they finish before it can start, or fit next to it.
    The most passes that each still takes are known, so the oldest starts no later than these say, and no
    request starves (EASY backfilling, Lifka 1995).
    """
    free = budget - sum(load.n_tokens for load in running)
    joined: list[int] = []
    while len(joined) < len(waiting) and waiting[len(joined)].n_tokens <= free:
        free -= waiting[len(joined)].n_tokens
        joined.append(len(joined))
    if len(joined) == len(waiting):
        return joined
    head = len(joined)
    start, spare = _first_room([*running, *waiting[:head]], waiting[head].n_tokens, free)
    for index in range(head + 1, len(waiting)):
        load = waiting[index]
        outlasts = load.n_passes > start
        if load.n_tokens <= free and (not outlasts or load.n_tokens <= spare):
            joined.append(index)
            free -= load.n_tokens
            spare -= load.n_tokens if outlasts else 0
    return joined


def _first_room(running: Sequence[Load], n_tokens: int, free: int) -> tuple[int, int]:
    """The number of passes until `n_tokens` fit, as running requests end, and the room left then."""
    for n_passes in sorted({load.n_passes for load in running}):
        free += sum(load.n_tokens for load in running if load.n_passes == n_passes)
        if free >= n_tokens:
            return n_passes, free - n_tokens
    raise ValueError(f"{n_tokens} tokens never fit; `check` each request before it waits")
