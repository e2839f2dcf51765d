"""Reads and checks one request."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from vitascope import storage
from vitascope.encode.buckets import Patching
from vitascope.generate.sampling import OURS, Sampling
from vitascope.generate.settings import GenerateSettings
from vitascope.ledger import Reason, Rejected
from vitascope.records import VideoSize, stable_id, stable_int
from vitascope.section import Section, shown

MAX_LINE_BYTES = 2**20
MAX_PROMPT_CHARS = 10_000
"""Several times the limit of any text encoder, and short enough to keep with every output."""
_MAX_URI_CHARS = 4096


class Mode(StrEnum):
    """Which frames of the output are conditioning frames."""

    TEXT_TO_VIDEO = "text_to_video"
    IMAGE_TO_VIDEO = "image_to_video"  # `image` is the first frame
    EXTEND_FORWARD = "extend_forward"  # the output begins with the end of `video`
    EXTEND_BACKWARD = "extend_backward"  # the output ends with the beginning of `video`
    JOIN = "join"  # begins with the end of `video`, ends with the beginning of `video_after`


MEDIA = {
    Mode.TEXT_TO_VIDEO: (),
    Mode.IMAGE_TO_VIDEO: ("image",),
    Mode.EXTEND_FORWARD: ("video",),
    Mode.EXTEND_BACKWARD: ("video",),
    Mode.JOIN: ("video", "video_after"),
}
"""The fields that name a mode's media."""


class Request(Section):
    """One line of a request file.

    Paths of media are local, s3:// or gs://; relative ones start at the request file's folder. Every number
    is bounded, so that no value computed from a request overflows.
    """

    custom_id: str = Field(
        min_length=1, max_length=512, description="The caller's name for the request; unique in the file."
    )
    prompt: str = Field(max_length=MAX_PROMPT_CHARS, description="What the output shows.")
    negative_prompt: str = Field(
        "",
        max_length=MAX_PROMPT_CHARS,
        description="What to avoid; if empty, guidance leads away from no text at all.",
    )
    mode: Mode = Field(Mode.TEXT_TO_VIDEO, description="Which frames are conditioning frames.")
    width: int = Field(ge=16, le=16_384, description="Pixels; even for a video.")
    height: int = Field(ge=16, le=16_384, description="Pixels; even for a video.")
    seconds: float = Field(ge=0, le=86_400, description="Duration; 0 requests a single picture (png).")
    fps: float = Field(8.0, ge=1, le=120, description="Frames per second of the output.")
    seed: int = Field(ge=0, lt=2**63, description="Seed of the noise; by default derived from custom_id.")
    steps: int = Field(ge=1, le=1000, description="Sampling steps; by default generate.steps.")
    guidance: float = Field(
        ge=1, le=1000, description="Guidance scale, 1 for none; by default generate.guidance."
    )
    guidance_2: float | None = Field(
        None, ge=1, le=1000, description="The same for the second expert of a model that has two."
    )
    solver: Literal["euler", "unipc"] = Field(
        "euler", description="How a step is computed; by default generate.solver, or the model's own."
    )
    shift: float | None = Field(
        None,
        ge=0.01,
        le=100,
        description="Shifts the noise levels of the steps towards noise; by default generate.shift.",
    )
    adapter: str | None = Field(
        None, max_length=64, description="Name of an adapter in generate.adapters; by default none."
    )
    adapter_weight: float = Field(1.0, ge=-10, le=10, description="Factor of the adapter's effect.")
    image: str | None = Field(
        None, max_length=_MAX_URI_CHARS, description="For image_to_video: the first frame."
    )
    video: str | None = Field(
        None, max_length=_MAX_URI_CHARS, description="For extend_forward, extend_backward and join: a video."
    )
    video_after: str | None = Field(
        None, max_length=_MAX_URI_CHARS, description="For join: the video that follows the output."
    )

    @field_validator(
        *(
            "width",
            "height",
            "seconds",
            "fps",
            "seed",
            "steps",
            "guidance",
            "guidance_2",
            "shift",
            "adapter_weight",
        ),
        mode="before",
    )
    @classmethod
    def _is_no_truth_value(cls, value: Any) -> Any:
        if isinstance(value, bool):  # pydantic would take true for 1
            raise ValueError("expected a number")
        return value

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("the prompt is empty; say what is to be seen")
        return prompt

    @property
    def size(self) -> VideoSize:
        """The output's size: the frames of `seconds` at `fps`, at least one."""
        return VideoSize(max(1, round(self.seconds * self.fps)), self.height, self.width)

    @property
    def scales(self) -> tuple[float, float]:
        """The guidance of each expert of a model."""
        return self.guidance, self.guidance if self.guidance_2 is None else self.guidance_2

    @property
    def is_guided(self) -> bool:
        """Whether any pass is guided."""
        return self.scales != (1, 1)

    @property
    def kind(self) -> str:
        """The mode as counted and reported: a text_to_video of one frame is an `image`."""
        return "image" if self.mode is Mode.TEXT_TO_VIDEO and self.size.n_frames == 1 else str(self.mode)

    def name(self, model: str) -> str:
        """The file name, without suffix, of this request's output from what `model` identifies.

        Every change of the output changes the name, so that an existing output is never mistaken for that of
        an edited request or a newer model.
        """
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", self.custom_id)[:40].strip("-")
        later = {"adapter"} | {key for key, default in _LATER.items() if getattr(self, key) == default}
        return f"{readable or 'request'}-{stable_id(self.model_dump_json(exclude=later), model)}"


_LATER = {"guidance_2": None, "solver": "euler", "shift": None, "adapter_weight": 1.0}
"""Fields that earlier releases did not know: at these values outputs keep their names. The adapter is part of
the model's identity."""


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
        raise _invalid(
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


def document_of(line: bytes | str) -> dict[str, object]:
    """The JSON object on a line, whatever it holds. Raises Rejected if the line is anything else."""
    return _object_of(line, object_pairs_hook=_each_key_once)


def labels(line: bytes | str) -> dict[str, str]:
    """`custom_id` and `mode` of a refused line, if it has them, at most 512 characters of each."""
    try:
        document = _object_of(line)
    except Rejected:
        return {}
    given = {key: document.get(key) for key in ("custom_id", "mode")}
    return {key: value[:512] for key, value in given.items() if isinstance(value, str)}


def _object_of(line: bytes | str, **how: Any) -> dict[str, object]:
    if len(line) > MAX_LINE_BYTES:
        raise _invalid(
            f"the line has more than {MAX_LINE_BYTES:,} bytes; shorten it (a prompt has at most "
            f"{MAX_PROMPT_CHARS:,} characters)"
        )
    try:
        text = line if isinstance(line, str) else line.decode()
        document = json.loads(text.removeprefix("\ufeff"), **how)
        json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no text either
    except UnicodeDecodeError as error:
        raise _invalid(f"the line is not UTF-8 ({error}); save the request file as UTF-8") from None
    except Rejected:
        raise
    except (ValueError, RecursionError) as error:
        raise _invalid(
            f"the line is not valid JSON ({_reason(error)}); write one JSON object a line"
        ) from None
    if not isinstance(document, dict):
        raise _invalid(f"expected a JSON object, got {shown(document)}")
    return document


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise _invalid(f"the key {shown(twice)} is given more than once; keep one")
    return document


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if "int_max_str_digits" in str(error):
        return "a number has thousands of digits"
    return str(error)


def _validated(document: dict[str, object], limits: Limits) -> Request:
    defaults: dict[str, object] = {}
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
        raise _invalid("; ".join(map(_explain, wrong))) from None


def _located(uri: str, limits: Limits) -> str:
    """The location of media; a request may not have arbitrary files or addresses read."""
    if len(uri) > _MAX_URI_CHARS:
        return uri  # refused by Request; resolving it would take long
    if "\0" in uri:
        raise _invalid(f"no file has such a name: {shown(uri)}")
    if not storage.is_remote(uri):
        uri = storage.join(limits.folder, uri.removeprefix("file://"))
    allowed = (limits.folder, *limits.settings.media_from)
    if not any(storage.is_within(uri, folder) for folder in allowed):
        raise _invalid(
            f"{shown(uri)} lies outside of {' and '.join(allowed)}; put it there, or add its folder to "
            "generate.media_from"
        )
    return storage.absolute(uri)


def _check_model(request: Request, sampling: Sampling) -> None:
    if sampling.modes and request.mode not in sampling.modes:
        raise _invalid(
            f"this model was trained for {' and '.join(sampling.modes)}, got mode {request.mode}; choose "
            'another mode, or train the model with train.conditioning_frames = "all"'
        )
    if request.guidance_2 is not None and sampling.boundary is None:
        raise _invalid("guidance_2 is for models with two experts, and this one has one; leave it out")


def _check_adapter(request: Request, settings: GenerateSettings) -> None:
    if request.adapter is None:
        if request.adapter_weight != 1:
            raise _invalid("adapter_weight has no effect without adapter; name one, or leave it out")
    elif request.adapter not in settings.adapters:
        known = ", ".join(settings.adapters) or "none"
        raise _invalid(f"no adapter {shown(request.adapter)} in generate.adapters, which names {known}")


def _check_media(request: Request) -> None:
    wanted = MEDIA[request.mode]
    for field in ("image", "video", "video_after"):
        given = getattr(request, field)
        if field in wanted and not given:
            needs = " and ".join(repr(f) for f in wanted)
            raise Rejected(Reason.MEDIA_MISSING, f"mode {request.mode} needs {needs}; {field!r} is not given")
        if given and field not in wanted:
            raise _invalid(
                f"mode {request.mode} makes no use of {field!r}; leave it out or choose another mode"
            )


def _check_size(request: Request, limits: Limits) -> None:
    size, settings = request.size, limits.settings
    least = _least_frames(request.mode, limits.patching.strides.time)
    if size.n_frames < least:
        raise _invalid(
            f"mode {request.mode} needs at least {least} frames, got {size.n_frames} "
            f"({request.seconds:g} s at {request.fps:g} fps); raise seconds"
        )
    if size.n_frames > settings.max_frames:
        raise _invalid(
            f"at most {settings.max_frames} frames, got {size.n_frames} ({request.seconds:g} s at "
            f"{request.fps:g} fps); shorten it, or raise generate.max_frames"
        )
    if size.height * size.width > settings.max_pixels:
        raise _invalid(
            f"at most {settings.max_pixels} pixels a frame, got {size.width}x{size.height} = "
            f"{size.height * size.width}; make it smaller, or raise generate.max_pixels"
        )
    if size.n_frames > 1 and (size.height % 2 or size.width % 2):
        raise _invalid(
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
        raise _invalid("negative_prompt has no effect at guidance 1; raise the guidance or leave it out")


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


def _invalid(detail: str) -> Rejected:
    return Rejected(Reason.INVALID_REQUEST, detail)
