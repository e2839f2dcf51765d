"""Checks one request, and fills in its defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from vitascope import storage
from vitascope.encode.buckets import Patching
from vitascope.generate import chunks
from vitascope.generate.denoise.sampling import OURS, Sampling
from vitascope.generate.document import document_of, invalid
from vitascope.generate.layout import N_TIED, layout
from vitascope.generate.request import MAX_URI_CHARS, MEDIA, OPTIONAL, Mode, Request
from vitascope.generate.settings import GenerateSettings
from vitascope.ledger import Reason, Rejected
from vitascope.records import stable_int
from vitascope.section import shown


@dataclass(frozen=True)
class Limits:
    """The limits for requests, and the defaults of their model; relative media are in `folder`.

    others: those of requests that name another model in `generate.models`.
    """

    settings: GenerateSettings
    patching: Patching
    folder: str
    sampling: Sampling = OURS
    others: Mapping[str, "Limits"] = field(default_factory=dict)

    def of(self, model: object) -> "Limits":
        """Those of a request with this `model`; raises Rejected if none has that name."""
        if not isinstance(model, str):  # no name at all, or refused by Request
            return self
        if model not in self.others:
            known = ", ".join(self.others) or "none"
            raise invalid(f"no model {shown(model)} in generate.models, which names {known}")
        return self.others[model]


def parse(line: bytes | str | dict[str, object], limits: Limits) -> Request:
    """The request on a JSON line, or in a table's row, defaults filled in and media made absolute.

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
    limits = limits.of(document.get("model"))
    request = _validated(document, limits)
    _check_model(request, limits.sampling)
    _check_adapter(request, limits.settings)
    _check_media(request)
    _check_size(request, limits)
    _check_guidance(request)
    request = _in_chunks(request, limits)
    _check_tokens(request, limits)
    return request


def n_tokens(request: Request, patching: Patching) -> int:
    """Patches of the request in each of its largest forward passes; twice as many if it is guided.

    Raises:
        Rejected: as `layout.layout`.
    """
    size = chunks.at_once(request) if request.chunk_frames else layout(request, patching).made
    n = patching.n_tokens(patching.covering(size))
    return 2 * n if request.is_guided else n


def _validated(document: dict[str, object], limits: Limits) -> Request:
    defaults: dict[str, object] = {"quality": limits.settings.quality}
    for name in ("steps", "guidance", "guidance_2", "solver", "shift"):
        chosen = getattr(limits.settings, name)
        defaults[name] = getattr(limits.sampling, name) if chosen is None else chosen
    if isinstance(custom_id := document.get("custom_id"), str):
        defaults["seed"] = stable_int("seed", custom_id)
    if isinstance(mode := document.get("mode"), str):
        defaults |= OPTIONAL.get(mode, {})  # type: ignore[call-overload]  # modes are strings
    document = _with_locations(document, limits)
    if isinstance(kept := document.get("keep"), list):
        document |= {
            "keep": [_with_locations(keep, limits) if isinstance(keep, dict) else keep for keep in kept]
        }
    try:
        return Request.model_validate(defaults | document)
    except ValidationError as error:
        wrong = [e for e in error.errors() if e["type"] != "missing" or e["loc"] != ("seed",)]
        raise invalid("; ".join(map(_explain, wrong))) from None


def _with_locations(document: dict[str, object], limits: Limits) -> dict[str, object]:
    fields = ("image", "image_last", "video", "video_after")
    named = {field: uri for field in fields if isinstance(uri := document.get(field), str)}
    return document | {field: _located(uri, limits) for field, uri in named.items()}


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
            f"this model makes {' and '.join(sampling.modes)}, got mode {request.mode}; choose another mode, "
            'or train the model with train.conditioning_frames = "all"'
        )
    if sampling.modes and request.mode is Mode.LOOP and request.image:
        raise invalid(
            "this model was not trained to end with a picture, as a loop from one does; leave image out, "
            'or train the model with train.conditioning_frames = "all"'
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
    needed, optional = MEDIA[request.mode], OPTIONAL.get(request.mode, {})
    fields = {field for table in (*MEDIA.values(), *OPTIONAL.values()) for field in table}
    for name in sorted(fields):
        given = getattr(request, name)
        if name in needed and not given:
            needs = " and ".join(repr(f) for f in needed)
            raise Rejected(Reason.MEDIA_MISSING, f"mode {request.mode} needs {needs}; {name!r} is not given")
        if given and name not in needed and name not in optional:
            raise invalid(
                f"mode {request.mode} makes no use of {name!r}; leave it out or choose another mode"
            )
    _check_kept(request)


def _check_kept(request: Request) -> None:
    uses_video = any(keep.image is None for keep in request.keep)
    if uses_video and not request.video:
        raise Rejected(Reason.MEDIA_MISSING, "a part of keep names no image, and 'video' is not given")
    if request.mode is Mode.INFILL and request.video and not uses_video:
        raise invalid("every part of keep names an image, so that 'video' has no use; leave it out")


def _check_size(request: Request, limits: Limits) -> None:
    size, settings = request.size, limits.settings
    _check_length(request, limits.patching.strides.time)
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


def _check_length(request: Request, time_stride: int) -> None:
    n_frames, least = request.size.n_frames, _least_frames(request, time_stride)
    so_many = f"got {n_frames} ({request.seconds:g} s at {request.fps:g} fps)"
    if n_frames < least:
        raise invalid(f"mode {request.mode} needs at least {least} frames, {so_many}; raise seconds")
    if request.mode is Mode.IMAGE_TO_IMAGE and n_frames > 1:
        raise invalid(f"mode {request.mode} makes one picture, {so_many}; set seconds to 0")
    if request.mode is Mode.LOOP and not request.image and n_frames % time_stride:
        near = n_frames - n_frames % time_stride
        raise invalid(
            f"a loop has a multiple of {time_stride} frames, {so_many}; set seconds to "
            f"{max(least, near) / request.fps:g} or {(near + time_stride) / request.fps:g}"
        )


def _least_frames(request: Request, time_stride: int) -> int:
    """One conditioning latent frame at each end that has one, and a frame to be made.

    A latent frame is one frame at the start of a video and `time_stride` frames elsewhere. A loop has a
    latent frame that leads back to its picture, or those that its ends have in common.
    """
    if request.mode is Mode.LOOP:
        return 1 + time_stride if request.image else N_TIED * time_stride
    one, two = 1 + time_stride, 2 + time_stride
    return {Mode.EXTEND_BACKWARD: one, Mode.JOIN: two, Mode.FIRST_LAST: two}.get(
        request.mode, 1 if request.mode in _OF_ANY_LENGTH else 2
    )


_OF_ANY_LENGTH = (Mode.TEXT_TO_VIDEO, Mode.VIDEO_TO_VIDEO, Mode.IMAGE_TO_IMAGE)


def _check_guidance(request: Request) -> None:
    if request.negative_prompt and not request.is_guided:
        raise invalid("negative_prompt has no effect at guidance 1; raise the guidance or leave it out")


def _in_chunks(request: Request, limits: Limits) -> Request:
    """The request with `chunk_frames`, if it is longer than what can be made at once, and without if not."""
    size, patching, asked = request.size, limits.patching, request.chunk_frames
    if not _can_be_long(request, limits.sampling):
        if asked is not None:
            raise invalid(
                f"chunk_frames is for {', '.join(chunks.LONG_MODES)} with a model that was trained to extend "
                f"videos, got mode {request.mode}; leave it out"
            )
        return request
    most = asked or limits.settings.chunk_frames or limits.sampling.most_frames or size.n_frames
    if asked is None:
        budget = limits.settings.max_tokens // (2 if request.is_guided else 1)
        most = min(most, chunks.longest(size, budget, patching))
    if size.n_frames <= most:
        return request.model_copy(update={"chunk_frames": None})
    if most < (least := chunks.least_frames(patching)):
        if (chosen := asked or limits.settings.chunk_frames) is None or chosen >= least:
            return request  # `_check_tokens` refuses it if it is too long
        name = "generate.chunk_frames" if asked is None else "chunk_frames"
        raise invalid(f"{name} is at least {least} with this model, got {chosen}; raise it")
    return request.model_copy(update={"chunk_frames": chunks.whole(most, patching)})


def _why_whole(request: Request, sampling: Sampling) -> str:
    """Why a request that is too long is not made in chunks."""
    if request.size.n_frames == 1 or _can_be_long(request, sampling):
        return ""
    if request.mode in chunks.LONG_MODES:
        return '; to make long videos in chunks, train the model with train.conditioning_frames = "all"'
    return f"; mode {request.mode} is made as a whole, only {', '.join(chunks.LONG_MODES)} also in chunks"


def _can_be_long(request: Request, sampling: Sampling) -> bool:
    """Whether it can be made in chunks: each is an extension of the one before it."""
    extends = sampling.modes is None or Mode.EXTEND_FORWARD in sampling.modes
    return extends and request.mode in chunks.LONG_MODES


def _check_tokens(request: Request, limits: Limits) -> None:
    n, most = n_tokens(request, limits.patching), limits.settings.max_tokens
    if n > most:
        raise Rejected(
            Reason.TOO_MANY_TOKENS,
            f"{chunks.at_once(request)} at guidance {request.guidance:g} takes {n} patches a pass, more than "
            f"generate.max_tokens = {most}; make it smaller or shorter, or raise that"
            + _why_whole(request, limits.sampling),
        )


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing" or not where:
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, got {shown(error['input'])}"
