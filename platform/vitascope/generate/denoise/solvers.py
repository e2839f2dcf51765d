"""Solvers: from one noise level to the next.

A solver is one function and a line in `SOLVERS`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

BELOW_NOISE = 1e-6
"""UniPC begins so far below pure noise, whose logarithmic signal-to-noise ratio is infinite."""


@dataclass(frozen=True, eq=False)
class Past:
    """What a solver remembers of earlier steps, none of which it changes.

    tokens: those that the last step started from, (n, D).
    clean: the clean tokens that the network predicted in the last step and in the one before it.
    """

    tokens: Tensor
    clean: tuple[Tensor, ...]


Solver = Callable[[Tensor, Tensor, tuple[Sequence[float], int], Past | None], tuple[Tensor, Past | None]]
"""(tokens (n, D), their velocity, (noise levels, index of the current one), past) -> tokens at the next
level, and what the next step needs to remember. Tokens do not affect each other."""


def euler(
    tokens: Tensor, velocity: Tensor, at: tuple[Sequence[float], int], past: Past | None
) -> tuple[Tensor, Past | None]:
    """A straight line along the velocity."""
    levels, step = at
    return tokens + (levels[step + 1] - levels[step]) * velocity, past


def dpmpp_2m(
    tokens: Tensor, velocity: Tensor, at: tuple[Sequence[float], int], past: Past | None
) -> tuple[Tensor, Past | None]:
    """DPM-Solver++ of second order, multistep (Lu et al. 2022, algorithm 2), in terms of the clean tokens.

    The first and the last step are of first order. The last ends at the prediction itself.
    """
    levels, step = at
    clean = tokens - levels[step] * velocity
    earlier = past.clean[:1] if past else ()
    now = Past(tokens, (clean, *earlier))
    return _predicted(now, levels, step), now


def unipc(
    tokens: Tensor, velocity: Tensor, at: tuple[Sequence[float], int], past: Past | None
) -> tuple[Tensor, Past | None]:
    """UniPC of second order with B₂(h), in terms of the clean tokens (Zhao et al. 2023, algorithms 5 to 8).

    Corrects the current tokens with what the network predicts from them, then takes the next step. The first
    and the last step are of first order. The last ends at the prediction itself.
    """
    levels, step = at
    clean = tokens - levels[step] * velocity
    if past:
        tokens = _corrected(clean, levels, step, past)
    earlier = past.clean[:1] if past else ()
    now = Past(tokens, (clean, *earlier))
    return _predicted(now, levels, step), now


def _predicted(now: Past, levels: Sequence[float], step: int) -> Tensor:
    """The tokens at the level after `step`, from the clean tokens predicted in it and in the one before."""
    clean = now.clean[0]
    if levels[step + 1] == 0:
        return clean
    base, scale, h = _first_order(now, levels, step)
    if _order(levels, step) == 2:
        ratio = (_log_snr(levels[step - 1]) - _log_snr(levels[step])) / h
        base = base - 0.5 * scale / ratio * (now.clean[1] - clean)
    return base


def _corrected(clean: Tensor, levels: Sequence[float], step: int, past: Past) -> Tensor:
    """The tokens at `step`, reached again from the past, now that their own prediction is known."""
    base, scale, h = _first_order(past, levels, step - 1)
    change = clean - past.clean[0]
    if _order(levels, step - 1) == 1:
        return base - 0.5 * scale * change
    ratio = (_log_snr(levels[step - 2]) - _log_snr(levels[step - 1])) / h
    phi = math.expm1(-h)
    b1 = (phi / -h - 1) / phi
    b2 = 2 * ((phi / -h - 1) / -h - 0.5) / phi
    rho = (b2 - b1) / (ratio - 1)  # of two equations: rho + rest = b1, ratio rho + rest = b2
    return base - scale * (rho / ratio * (past.clean[1] - past.clean[0]) + (b1 - rho) * change)


def _first_order(past: Past, levels: Sequence[float], step: int) -> tuple[Tensor, float, float]:
    """Tokens a first-order step after `past`, the scale of corrections, and the step in log-SNR."""
    now, after = levels[step], levels[step + 1]
    h = _log_snr(after) - _log_snr(now)
    scale = (1 - after) * math.expm1(-h)
    return after / now * past.tokens - scale * past.clean[0], scale, h


def _order(levels: Sequence[float], step: int) -> int:
    return min(2, step + 1, len(levels) - 1 - step)


def _log_snr(level: float) -> float:
    """Half the logarithm of the signal-to-noise ratio."""
    level = min(level, 1 - BELOW_NOISE)
    return math.log(1 - level) - math.log(level)


SOLVERS: dict[str, Solver] = {"euler": euler, "dpmpp_2m": dpmpp_2m, "unipc": unipc}
"""By their name in a request."""
