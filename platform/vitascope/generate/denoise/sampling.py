"""How a model is sampled unless a request says otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vitascope.errors import Mistake
from vitascope.generate.denoise.schedule import NETWORK_TIMESTEPS, Schedule, as_published, spaced
from vitascope.generate.settings import GenerateSettings
from vitascope.ledger import Reason, Rejected
from vitascope.model.flow import Shift
from vitascope.model.formats.card import ModelCard
from vitascope.model.formats.pipeline import Pipeline
from vitascope.model.networks import NETWORKS
from vitascope.section import shown
from vitascope.train.settings import Conditioning
from vitascope.wording import short

if TYPE_CHECKING:
    from vitascope.generate.request import Request


@dataclass(frozen=True)
class Sampling:
    """The defaults of a model's requests, and what its noise levels follow from; by default, a model of ours.

    shift: None for the one that the model was trained with.
    n_train: the number of timesteps of a published scheduler, whose noise levels are made; None for ours.
    boundary: the noise level below which the second expert begins; None if there is one network.
    modes: those that the model's training allows; None for all.
    most_frames: those of the longest video that it was trained on; None if that is not known.
    """

    solver: str = "euler"
    steps: int = 30
    guidance: float = 4.0
    guidance_2: float | None = None
    shift: float | None = None
    n_train: int | None = None
    boundary: float | None = None
    modes: tuple[str, ...] | None = None
    most_frames: int | None = None

    def schedule(self, request: "Request", n_tokens: int, card: ModelCard) -> Schedule:
        """The noise levels of a request of `n_tokens` patches, of the steps that it takes.

        Raises:
            Rejected: they are so close together that some are equal, or none has the guidance that is asked
                for.
        """
        objective = NETWORKS[card.model.network].objective
        strength = card.timestep_shift if request.shift is None else request.shift
        if self.n_train is None:
            shift = Shift(strength, objective.shift_grows)
            schedule = spaced(request.steps, n_tokens, shift, smallest=objective.smallest_timestep)
        else:
            schedule = as_published(
                request.solver, request.steps, strength, n_train=self.n_train, boundary=self.boundary
            )
        if (np.diff(np.asarray(schedule.levels, np.float32)) >= 0).any():
            raise Rejected(
                Reason.INVALID_REQUEST,
                f"with shift {strength:g}, some of {request.steps} steps start from the same noise level; "
                "lower shift or steps",
            )
        schedule = schedule.last(request.n_passes)
        _check_interval(request, schedule)
        return schedule


def _check_interval(request: "Request", schedule: Schedule) -> None:
    steps, interval = range(len(schedule.experts)), request.guidance_interval
    if request.is_guided and not any(schedule.is_within(step, interval) for step in steps):
        levels = ", ".join(f"{level:.3g}" for level in schedule.levels[:-1])
        raise Rejected(
            Reason.INVALID_REQUEST,
            f"no step has guidance: of the noise levels {short(levels, 200)}, none is in guidance_interval "
            f"[{interval[0]:g}, {interval[1]:g}]; widen it, raise steps, or set guidance to 1",
        )


OURS = Sampling()
_WITHOUT_CONDITIONING = ("text_to_video", "loop", "video_to_video", "image_to_image")
MODES: dict[Conditioning, tuple[str, ...] | None] = {
    "none": _WITHOUT_CONDITIONING,
    "first": (*_WITHOUT_CONDITIONING, "image_to_video"),
    "all": None,
}
"""The modes of models by the conditioning frames that they were trained with; None for all."""


def of_pipeline(pipeline: Pipeline, settings: GenerateSettings) -> Sampling:
    """As Diffusers samples a published pipeline: solver and shift of its scheduler, 50 steps, guidance 5.

    Raises:
        Mistake: its scheduler is not known, and the settings do not choose solver and shift instead.
    """
    solver, shift, n_train = _scheduler(pipeline, settings)
    return Sampling(
        solver=solver,
        steps=50,
        guidance=5.0,
        shift=shift,
        n_train=n_train,
        boundary=pipeline.boundary,
        modes=MODES["first" if pipeline.expand_timesteps else "none"],
    )


_COMMON: dict[str, Any] = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
}
_KNOWN: dict[str, tuple[str, str, dict[str, tuple[Any, Any]]]] = {
    "UniPCMultistepScheduler": (
        "unipc",
        "flow_shift",
        {
            "prediction_type": ("epsilon", "flow_prediction"),
            "use_flow_sigmas": (False, True),
            "solver_order": (2, 2),
            "solver_type": ("bh2", "bh2"),
            "solver_p": (None, None),
            "predict_x0": (True, True),
            "lower_order_final": (True, True),
            "final_sigmas_type": ("zero", "zero"),
            "thresholding": (False, False),
            "disable_corrector": ([], []),
        },
    ),
    "DPMSolverMultistepScheduler": (
        "dpmpp_2m",
        "flow_shift",
        {
            "prediction_type": ("epsilon", "flow_prediction"),
            "use_flow_sigmas": (False, True),
            "algorithm_type": ("dpmsolver++", "dpmsolver++"),
            "solver_order": (2, 2),
            "solver_type": ("midpoint", "midpoint"),
            "lower_order_final": (True, True),
            "euler_at_final": (False, False),
            "use_lu_lambdas": (False, False),
            "final_sigmas_type": ("zero", "zero"),
            "thresholding": (False, False),
        },
    ),
    "FlowMatchEulerDiscreteScheduler": (
        "euler",
        "shift",
        {"invert_sigmas": (False, False), "stochastic_sampling": (False, False)},
    ),
}
"""By class in Diffusers: the solver, the key of the shift, and what else decides the result: the class's own
default, and the only value that is known here."""


def _scheduler(pipeline: Pipeline, settings: GenerateSettings) -> tuple[str, float, int]:
    """Solver, shift and number of timesteps of a pipeline's scheduler, or those that the settings choose."""
    try:
        return _known(pipeline)
    except Mistake as unknown:
        if settings.solver and settings.shift:
            return settings.solver, settings.shift, NETWORK_TIMESTEPS
        instead = "to sample with another one, set generate.solver and generate.shift"
        raise Mistake(f"{unknown}; {instead}") from None


def _known(pipeline: Pipeline) -> tuple[str, float, int]:
    """Solver, shift and number of timesteps of a scheduler. Mistake if its samples would be others."""
    config, kind = pipeline.scheduler, pipeline.scheduler.get("_class_name")
    if kind not in _KNOWN:
        known = ", ".join(_KNOWN)
        raise Mistake(f"{pipeline.scheduler_uri} describes a {shown(kind)}; the known schedulers are {known}")
    solver, shift_key, rest = _KNOWN[kind]
    wanted = rest | {key: (value, value) for key, value in _COMMON.items()}
    for key, (default, known) in wanted.items():
        if (value := config.get(key, default)) != known:
            raise Mistake(
                f"{pipeline.scheduler_uri} says {key} = {shown(value)}, and {solver} is known here with "
                f"{shown(known)} only"
            )
    return solver, _shift(config, shift_key, pipeline), _n_train(config, pipeline)


def _shift(config: Mapping[str, Any], key: str, pipeline: Pipeline) -> float:
    value = config.get(key, 1.0)
    if type(value) not in (int, float) or not value > 0:
        raise Mistake(f"{pipeline.scheduler_uri} says {key} = {shown(value)}; expected a number above 0")
    return float(value)


def _n_train(config: Mapping[str, Any], pipeline: Pipeline) -> int:
    value = config.get("num_train_timesteps", NETWORK_TIMESTEPS)
    if type(value) is not int or not 2 <= value <= NETWORK_TIMESTEPS:
        raise Mistake(
            f"{pipeline.scheduler_uri} says num_train_timesteps = {shown(value)}; expected 2 to "
            f"{NETWORK_TIMESTEPS}, the timesteps that Wan's networks know"
        )
    return value
