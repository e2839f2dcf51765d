"""The networks of a model, and the pass that they compute."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor

from vitascope.feed.packs import Pack, collate
from vitascope.generate.denoise import sampler
from vitascope.generate.denoise.sampler import Work
from vitascope.model.lora import PerSegment


@dataclass(frozen=True, eq=False)
class Experts:
    """A model: one network for all noise levels, or one for each range of them, all on `device`.

    adapters: of each network, if there are any.
    squared: what attention makes a patch of a request cost more for each of its patches: a patch of a request
        of L patches costs 1 + squared L of what one of a tiny image costs.
    invariant: whether a velocity is to the last bit that of the work alone. In a pack it is not: products of
        matrices compute the last rows of their inputs in another order, and activations the last values.
    """

    networks: Sequence[Callable[[Pack], Tensor]]
    device: str = "cpu"
    adapters: Sequence[PerSegment] = ()
    squared: float = 0.0
    invariant: bool = False

    def weight(self, n_tokens: int) -> float:
        """What a patch of a segment of `n_tokens` patches costs, over one of a tiny image."""
        return 1 + self.squared * n_tokens

    def velocities(self, works: Sequence[Work]) -> list[list[Tensor]]:
        """One pass: the velocity (n, D) of each segment of each work. All works need the same expert."""
        packs = [[work] for work in works] if self.invariant else [works]
        return [velocities for pack in packs for velocities in self._of_pack(pack)]

    def _of_pack(self, works: Sequence[Work]) -> list[list[Tensor]]:
        expert = works[0].expert
        groups = [sampler.segments(work) for work in works]
        pack = collate([segment for group in groups for segment in group]).to(self.device)
        uses = [work.adapter for work, group in zip(works, groups, strict=True) for _ in group]
        with self.adapters[expert].using(pack, uses) if self.adapters else nullcontext():
            found = iter(pack.split(self.networks[expert](pack)))
        return [[next(found) for _ in group] for group in groups]
