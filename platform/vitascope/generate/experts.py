"""The networks of a model, and the pass that they compute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from vitascope.feed.packs import Pack, collate
from vitascope.generate import sampler
from vitascope.generate.sampler import Work


@dataclass(frozen=True, eq=False)
class Experts:
    """A model: one network for all noise levels, or one for each range of them, all on `device`."""

    networks: Sequence[Callable[[Pack], Tensor]]
    device: str = "cpu"

    def velocities(self, works: Sequence[Work]) -> list[list[Tensor]]:
        """One pass: the velocity (n, D) of each segment of each work. All works need the same expert."""
        groups = [sampler.segments(work) for work in works]
        pack = collate([segment for group in groups for segment in group]).to(self.device)
        found = iter(pack.split(self.networks[works[0].expert](pack)))
        return [[next(found) for _ in group] for group in groups]
