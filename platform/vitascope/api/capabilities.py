"""What a request may ask of a model."""

from collections.abc import Iterable
from typing import get_args

from vitascope.api.jobs import Jobs
from vitascope.api.shapes import Model, ModeOf
from vitascope.generate.models import DEFAULT
from vitascope.generate.parse import Limits
from vitascope.generate.request import MEDIA, OPTIONAL, Mode, Quality, Request

_WITH_DEFAULT = ("steps", "guidance", "solver", "shift")


def described(jobs: Jobs, name: str) -> Model:
    """The model of this name."""
    model = jobs.models.each[DEFAULT if name in jobs.settings.models else name]
    limits, sampling = jobs.models.limits(jobs.objects.root).of(None), model.opened.sampling
    if name not in jobs.settings.models:
        limits = limits.of(name)
    modes = [mode for mode in Mode if sampling.modes is None or mode in sampling.modes]
    return Model(
        id=name,
        created=0,
        modes=[_mode(mode) for mode in modes],
        qualities=list(get_args(Quality)),
        solvers=list(get_args(Request.model_fields["solver"].annotation)),
        adapters=list(model.settings.adapters),
        sizes=_sizes(jobs.settings.size, model.opened.card.encode.buckets),
        defaults=_defaults(limits) | {"size": jobs.settings.size, "seconds": jobs.settings.seconds},
    )


def _mode(mode: Mode) -> ModeOf:
    optional = [field for field in OPTIONAL.get(mode, {}) if field in ("image", "video")]
    return ModeOf(id=mode, needs=list(MEDIA[mode]), may_have=optional)


def _sizes(default: str, buckets: Iterable[tuple[int, int, int]] | None) -> list[str]:
    trained = dict.fromkeys(f"{width}x{height}" for _, height, width in buckets or ())
    return list(dict.fromkeys([default, *trained]))


def _defaults(limits: Limits) -> dict[str, object]:
    defaults: dict[str, object] = {"fps": Request.model_fields["fps"].default}
    for field in _WITH_DEFAULT:
        chosen = getattr(limits.settings, field)
        defaults[field] = getattr(limits.sampling, field) if chosen is None else chosen
    return {field: value for field, value in defaults.items() if value is not None}
