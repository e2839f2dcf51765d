"""What a run trains on, and how."""

from dataclasses import dataclass, replace
from typing import Any

from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.feed.source import Source
from vitascope.model import flow
from vitascope.model.card import ModelCard
from vitascope.model.cost import cost_of


@dataclass(frozen=True)
class Job:
    """All that a rank needs to know: one value, sent to every worker.

    latents, metrics: locations, absolute since Ray Train gives its workers another working directory.
    samples: a digest of the samples trained on, which decide the plan.
    """

    settings: Settings
    latents: str
    metrics: str
    samples: str
    card: ModelCard

    @property
    def draws(self) -> flow.Draws:
        """How samples are trained."""
        train = self.settings.train
        return flow.Draws(self.settings.run.seed, train.text_dropout, train.timestep_shift)

    @property
    def held_out_draws(self) -> flow.Draws:
        """How held-out samples are probed: always with their captions."""
        return replace(self.draws, text_dropout=0.0)

    @property
    def stop_request(self) -> str:
        """Where a request to stop is left."""
        return self.settings.path("train", "stop")

    def source(self, split: str, draws: flow.Draws) -> Source:
        """What decides the packs of a split."""
        feed, card = self.settings.feed, self.card
        return Source(
            latents=self.latents,
            split=split,
            patch=card.model.patch,
            seed=self.settings.run.seed,
            token_budget=feed.token_budget,
            packs_per_step=feed.packs_per_step,
            window_samples=feed.window_samples,
            cost=cost_of(card.model, card.channels, card.text_dim).of,
            draws=draws,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint and the run that goes on from it must agree on."""
        feed = self.settings.feed
        return {
            "fingerprint": self.card.fingerprint,
            "samples": self.samples,
            "seed": self.settings.run.seed,
            "token_budget": feed.token_budget,
            "packs_per_step": feed.packs_per_step,
            "window_samples": feed.window_samples,
            "model": self.card.model.model_dump(),
        }


def check_identity(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses to go on from a checkpoint of another run.

    Raises:
        ValueError: naming what differs.
    """
    differing = [
        f"{k}: checkpoint {found.get(k)!r}, settings {v!r}" for k, v in wanted.items() if found.get(k) != v
    ]
    if differing:
        raise Mistake(
            "the run's folder holds a checkpoint made with other settings; "
            "use them, or another run.folder.\n  " + "\n  ".join(differing)
        )
