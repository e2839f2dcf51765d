"""Steps without a pass: their velocity continues that of earlier ones.

Between two steps the velocity of a request changes little, so that most step caches use a part of an earlier
pass again while an estimate of the change stays below a threshold: TeaCache (Liu et al. 2024) and EasyCache
(Zhou et al. 2025) estimate it from the change of the network's input. Here the estimate is the change of the
guided velocity itself between the last two passes, and what it changed is continued in a straight line. All
of it follows from the request alone, before the next pass begins.
"""

from dataclasses import dataclass

from torch import Tensor

from vitascope.generate.settings import Quality

MOST_CHANGE: dict[Quality, float] = {"exact": 0.0, "high": 0.08, "fast": 0.16}
"""The estimated change of the velocity since the last pass, relative to its size, below which a step needs no
pass. jobs/bench/step_cache.py measures what it costs."""
MOST_IN_A_ROW = 3
"""Steps without a pass: the estimate is older with each."""

Phase = tuple[int, float]
"""Expert and guidance of a pass; at a change of either the velocity jumps."""


@dataclass(frozen=True, eq=False)
class Recent:
    """A request's passes so far, as far as later steps need to know.

    velocity: (n, D), guided, that of the last pass. level: its noise level.
    slope: (n, D), the change of the velocity per unit of noise level since the pass before; None if that one
        was of another phase. rate: the size of the slope relative to that of the velocity.
    in_a_row: how many steps without a pass have followed.
    """

    velocity: Tensor
    level: float
    phase: Phase
    slope: Tensor | None = None
    rate: float = 0.0
    in_a_row: int = 0

    def then(self, velocity: Tensor, level: float, phase: Phase) -> "Recent":
        """After one more pass."""
        if phase != self.phase:
            return Recent(velocity, level, phase)
        slope = (velocity - self.velocity) / (level - self.level)
        rate = float(slope.norm() / velocity.norm())
        return Recent(velocity, level, phase, slope, rate)

    def suffices(self, level: float, phase: Phase, quality: Quality) -> bool:
        """Whether a step at `level` needs no pass."""
        if self.slope is None or phase != self.phase or self.in_a_row >= MOST_IN_A_ROW:
            return False
        return self.rate * (self.level - level) < MOST_CHANGE[quality]

    def at(self, level: float) -> Tensor:
        """The velocity (n, D) that a step at `level` takes instead of a pass. Only if `suffices`."""
        assert self.slope is not None
        return self.velocity + (level - self.level) * self.slope
