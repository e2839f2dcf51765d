"""The inputs and settings of a training run."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator

from vitascope import checksum, storage
from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.feed.plan import PLAN_RULE, Position
from vitascope.feed.source import Source
from vitascope.model import flow
from vitascope.model.formats.card import ModelCard
from vitascope.model.formats.purpose import check_noise_range
from vitascope.model.networks import cost_of
from vitascope.model.settings import ModelSettings
from vitascope.stages import runner
from vitascope.train.settings import ALL_LEVELS
from vitascope.train.shards import Shards


class State(Shards):
    """A checkpoint's state.json: the identity of its job with the precision, and the settings it had."""

    identity: dict[str, Any]
    position: Position
    made_with: runner.Values = Field(default_factory=dict)

    @field_validator("identity")
    @classmethod
    def _with_later_settings(cls, identity: dict[str, Any]) -> dict[str, Any]:
        """Earlier releases recorded fewer settings; their defaults are what those releases did."""
        model = identity.get("model")
        identity = {"conditioning_frames": "all", "noise_range": list(ALL_LEVELS)} | identity
        if not model:
            return identity
        return identity | {"model": ModelSettings.model_validate(model).model_dump(exclude={"start_from"})}


@dataclass(frozen=True)
class Job:
    """Everything a rank needs: one value, sent to every worker.

    latents, metrics: locations, absolute because Ray Train changes its workers' working directory.
    samples: a digest of the training samples, which decide the plan.
    """

    settings: Settings
    latents: str
    metrics: str
    samples: str
    card: ModelCard

    @property
    def draws(self) -> flow.Draws:
        """How samples are trained."""
        card = self.card
        return flow.Draws(
            self.settings.run.seed,
            self.settings.train.text_dropout,
            card.shift,
            conditioning=card.conditioning_frames,
            noise_range=card.noise_range,
        )

    @property
    def probe(self) -> flow.Probe:
        """How held-out samples are measured."""
        return flow.Probe(self.settings.evaluate.timesteps_within(self.card.noise_range))

    @property
    def start(self) -> str:
        """The file in which the first rank reports, at every start of the ranks, their precision and why."""
        return self.settings.path("train", "start.json")

    @property
    def not_finite(self) -> str:
        """The folder in which the samples of skipped steps are recorded."""
        return self.settings.path("train", "not_finite")

    @property
    def stop_request(self) -> str:
        """The file of a request to stop."""
        return self.settings.path("train", "stop")

    def source(self, split: str, draws: flow.Draws | flow.Probe) -> Source:
        """The source of the packs of a split."""
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
    def identity(self) -> dict[str, object]:
        """The values that a checkpoint and a run continuing from it must share; precision unless "auto"."""
        feed, precision = self.settings.feed, self.settings.train.precision
        fixed = {} if precision == "auto" else {"precision": precision}
        return fixed | {
            "fingerprint": self.card.fingerprint,
            "samples": self.samples,
            "plan": PLAN_RULE,
            "seed": self.settings.run.seed,
            "token_budget": feed.token_budget,
            "packs_per_step": feed.packs_per_step,
            "window_samples": feed.window_samples,
            "model": self.card.model.model_dump(exclude={"start_from"}),
            "start": self.card.start,
            "timestep_shift": self.card.timestep_shift,
            "text_dropout": self.settings.train.text_dropout,
            "conditioning_frames": self.card.conditioning_frames,
            "noise_range": list(self.card.noise_range),
        }


def state_in(folder: str) -> State:
    """The state of a checkpoint; ValueError if it is damaged."""
    return State.model_validate_json(checksum.read(storage.join(folder, "state.json")))


_LATER = ("timestep_shift", "text_dropout")
"""Keys of the identity that earlier releases did not record."""


def check_identity(state: State, job: Job) -> None:
    """Refuses to continue from a checkpoint of another run.

    Raises:
        Mistake: names the differences.
    """
    recorded, wanted = state.identity, job.identity
    differing = [
        f"{k}: checkpoint {recorded.get(k)!r}, settings {v!r}"
        for k, v in wanted.items()
        if recorded.get(k, v if k in _LATER else None) != v
    ]
    if differing:
        raise _other_run(changed_since(state, job.settings) or differing)


def check_settings(settings: Settings) -> None:
    """Refuses, before any work, settings with which training cannot begin or continue.

    Raises:
        Mistake: the noise levels are not those of the weights to start from, or settings have changed since
            the run's checkpoints were written.
    """
    if start := settings.model.start_from:
        with suppress(PermissionError):  # the nodes may have access that this process lacks
            check_noise_range(start, settings.train.noise_range)
    for state in checkpoint_states(settings):
        if changed := changed_since(state, settings):
            raise _other_run(changed)


def checkpoint_states(settings: Settings) -> Iterator[State]:
    """The recorded states of the run's checkpoints."""
    files = storage.list_files(settings.path("train", "checkpoints"))
    return (
        State.model_validate_json(storage.read_bytes(file)) for file in files if file.endswith("/state.json")
    )


def changed_since(state: State, settings: Settings) -> list[str]:
    """The settings that decide the samples or their order and have changed since a checkpoint was written."""
    return runner.changes(state.made_with, runner.values_before(settings, "train"))


def _other_run(differing: Sequence[str]) -> Mistake:
    return Mistake(
        "the run's folder holds checkpoints of training made with other settings or samples, and training "
        "cannot continue from them:\n  " + "\n  ".join(differing) + "\n"
        "Set these back, name another run.folder, or delete train/checkpoints in this one to train anew"
    )
