"""Checks one request, and fills in its defaults."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vitascope import storage
from vitascope.encode.buckets import Patching
from vitascope.generate.denoise.sampling import OURS, Sampling
from vitascope.generate.document import document_of, invalid
from vitascope.generate.request import MAX_URI_CHARS, MEDIA, Mode, Request
from vitascope.generate.settings import GenerateSettings
from vitascope.ledger import Reason, Rejected
from vitascope.records import stable_int
from vitascope.section import shown


@dataclass(frozen=True)
class Limits:
    """The limits for requests, and the defaults of their model; relative media are in `folder`."""

    settings: GenerateSettings
    patching: Patching
    folder: str
    sampling: Sampling = OURS


def parse(line: bytes | str, limits: Limits) -> Request:
    """The request on a JSON line, defaults filled in and media made absolute.

    Raises:
        Rejected: says what was received, what was expected and what to do. Nothing else is raised, whatever
            the line holds: it is one of many, and the others must still be generated.
    """
    try:
        return _checked(document_of(line), limits)
    except Rejected:
        raise
    except Exception as error:
        raise invalid(
            f"the request cannot be checked ({type(error).__name__}: {shown(str(error))})"
        ) from error


def _checked(document: dict[str, object], limits: Limits) -> Request:
    request = _validated(document, limits)
    _check_model(request, limits.sampling)
    _check_adapter(request, limits.settings)
    _check_media(request)
    _check_size(request, limits)
    _check_guidance(request)
    _check_tokens(request, limits)
    return request


def n_tokens(request: Request, patching: Patching) -> int:
    """Patches of the request in each forward pass; twice as many if it is guided."""
    n = patching.n_tokens(patching.covering(request.size))
    return 2 * n if request.is_guided else n


def _validated(document: dict[str, object], limits: Limits) -> Request:
    defaults: dict[str, object] = {"quality": limits.settings.quality}
    for field in ("steps", "guidance", "guidance_2", "solver", "shift"):
        chosen = getattr(limits.settings, field)
        defaults[field] = getattr(limits.sampling, field) if chosen is None else chosen
    if isinstance(custom_id := document.get("custom_id"), str):
        defaults["seed"] = stable_int("seed", custom_id)
    for field in ("image", "video", "video_after"):
        if isinstance(uri := document.get(field), str):
            document = document | {field: _located(uri, limits)}
    try:
        return Request.model_validate(defaults | document)
    except ValidationError as error:
        wrong = [e for e in error.errors() if e["type"] != "missing" or e["loc"] != ("seed",)]
        raise invalid("; ".join(map(_explain, wrong))) from None


def _located(uri: str, limits: Limits) -> str:
    """The location of media; a request may not have arbitrary files or addresses read."""
    if len(uri) > MAX_URI_CHARS:
        return uri  # refused by Request; resolving it would take long
    if "\0" in uri:
        raise invalid(f"no file has such a name: {shown(uri)}")
    if not storage.is_remote(uri):
        uri = storage.join(limits.folder, uri.removeprefix("file://"))
    allowed = (limits.folder, *limits.settings.media_from)
    if not any(storage.is_within(uri, folder) for folder in allowed):
        raise invalid(
            f"{shown(uri)} lies outside of {' and '.join(allowed)}; put it there, or add its folder to "
            "generate.media_from"
        )
    return storage.absolute(uri)


def _check_model(request: Request, sampling: Sampling) -> None:
    if sampling.modes and request.mode not in sampling.modes:
        raise invalid(
            f"this model was trained for {' and '.join(sampling.modes)}, got mode {request.mode}; choose "
            'another mode, or train the model with train.conditioning_frames = "all"'
        )
    if request.guidance_2 is not None and sampling.boundary is None:
        raise invalid("guidance_2 is for models with two experts, and this one has one; leave it out")


def _check_adapter(request: Request, settings: GenerateSettings) -> None:
    if request.adapter is None:
        if request.adapter_weight != 1:
            raise invalid("adapter_weight has no effect without adapter; name one, or leave it out")
    elif request.adapter not in settings.adapters:
        known = ", ".join(settings.adapters) or "none"
        raise invalid(f"no adapter {shown(request.adapter)} in generate.adapters, which names {known}")


def _check_media(request: Request) -> None:
    wanted = MEDIA[request.mode]
    for field in ("image", "video", "video_after"):
        given = getattr(request, field)
        if field in wanted and not given:
            needs = " and ".join(repr(f) for f in wanted)
            raise Rejected(Reason.MEDIA_MISSING, f"mode {request.mode} needs {needs}; {field!r} is not given")
        if given and field not in wanted:
            raise invalid(
                f"mode {request.mode} makes no use of {field!r}; leave it out or choose another mode"
            )


def _check_size(request: Request, limits: Limits) -> None:
    size, settings = request.size, limits.settings
    least = _least_frames(request.mode, limits.patching.strides.time)
    if size.n_frames < least:
        raise invalid(
            f"mode {request.mode} needs at least {least} frames, got {size.n_frames} "
            f"({request.seconds:g} s at {request.fps:g} fps); raise seconds"
        )
    if size.n_frames > settings.max_frames:
        raise invalid(
            f"at most {settings.max_frames} frames, got {size.n_frames} ({request.seconds:g} s at "
            f"{request.fps:g} fps); shorten it, or raise generate.max_frames"
        )
    if size.height * size.width > settings.max_pixels:
        raise invalid(
            f"at most {settings.max_pixels} pixels a frame, got {size.width}x{size.height} = "
            f"{size.height * size.width}; make it smaller, or raise generate.max_pixels"
        )
    if size.n_frames > 1 and (size.height % 2 or size.width % 2):
        raise invalid(
            f"a video's sides must be even (H.264 halves its colours), got {size.width}x{size.height}"
        )


def _least_frames(mode: Mode, time_stride: int) -> int:
    """One conditioning latent frame at each end that has one, and a frame to be made.

    A latent frame is one frame at the start of a video and `time_stride` frames elsewhere.
    """
    first = mode in (Mode.IMAGE_TO_VIDEO, Mode.EXTEND_FORWARD, Mode.JOIN)
    last = mode in (Mode.EXTEND_BACKWARD, Mode.JOIN)
    return 1 + first + time_stride * last


def _check_guidance(request: Request) -> None:
    if request.negative_prompt and not request.is_guided:
        raise invalid("negative_prompt has no effect at guidance 1; raise the guidance or leave it out")


def _check_tokens(request: Request, limits: Limits) -> None:
    n, budget = n_tokens(request, limits.patching), limits.settings.token_budget
    if n > budget:
        raise Rejected(
            Reason.TOO_MANY_TOKENS,
            f"{request.size} at guidance {request.guidance:g} takes {n} patches a pass, more than "
            f"generate.token_budget = {budget}; make it smaller or shorter, or raise the budget",
        )


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing" or not where:
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, got {shown(error['input'])}"
