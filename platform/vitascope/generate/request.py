"""What one output is to be."""

import hashlib
import re
from contextlib import suppress
from enum import StrEnum
from typing import Any

from pydantic import Field, field_validator, model_validator

from vitascope.generate.settings import Quality, SolverName
from vitascope.records import VideoSize, stable_id
from vitascope.section import Section

MAX_PROMPT_CHARS = 10_000
"""Several times the limit of any text encoder, and short enough to keep with every output."""
MAX_URI_CHARS = 4096


WHOLE = (0.0, 1.0)
"""All noise levels."""


class Mode(StrEnum):
    """Which frames of the output are conditioning frames."""

    TEXT_TO_VIDEO = "text_to_video"
    IMAGE_TO_VIDEO = "image_to_video"  # `image` is the first frame
    EXTEND_FORWARD = "extend_forward"  # the output begins with the end of `video`
    EXTEND_BACKWARD = "extend_backward"  # the output ends with the beginning of `video`
    JOIN = "join"  # begins with the end of `video`, ends with the beginning of `video_after`
    FIRST_LAST = "first_last"  # begins with `image`, ends with `image_last`
    LOOP = "loop"  # the last frame leads into the first one; `image` is the first one
    INFILL = "infill"  # holds pictures and stretches of `video` at the times that `keep` names
    INTERPOLATE = "interpolate"  # `video` with frames in between
    VIDEO_TO_VIDEO = "video_to_video"  # `video`, made anew from a noise level below 1
    IMAGE_TO_IMAGE = "image_to_image"  # `image`, made anew in the same way


MEDIA: dict[Mode, tuple[str, ...]] = {
    Mode.TEXT_TO_VIDEO: (),
    Mode.IMAGE_TO_VIDEO: ("image",),
    Mode.EXTEND_FORWARD: ("video",),
    Mode.EXTEND_BACKWARD: ("video",),
    Mode.JOIN: ("video", "video_after"),
    Mode.FIRST_LAST: ("image", "image_last"),
    Mode.LOOP: (),
    Mode.INFILL: ("keep",),
    Mode.INTERPOLATE: ("video",),
    Mode.VIDEO_TO_VIDEO: ("video",),
    Mode.IMAGE_TO_IMAGE: ("image",),
}
"""The fields that a mode needs for its media."""

OPTIONAL: dict[Mode, dict[str, Any]] = {
    Mode.LOOP: {"image": None},
    Mode.INFILL: {"video": None},
    Mode.INTERPOLATE: {"factor": 2},
    Mode.VIDEO_TO_VIDEO: {"strength": 0.6},
    Mode.IMAGE_TO_IMAGE: {"strength": 0.6},
}
"""Further fields of a mode, and their defaults. Other modes refuse them."""


class Keep(Section):
    """Conditioning frames of an in-filled output: a picture, or a stretch of `video`, at its own time."""

    image: str | None = Field(None, max_length=MAX_URI_CHARS, description="A picture; without one, `video`.")
    seconds: float = Field(
        ge=0, le=86_400, description="When the picture is shown, or the stretch of `video` begins."
    )
    until: float | None = Field(None, gt=0, le=86_400, description="When the stretch of `video` ends.")

    @field_validator("seconds", "until", mode="before")
    @classmethod
    def _is_a_number(cls, value: Any) -> Any:
        return no_truth_value(value)

    @model_validator(mode="after")
    def _is_one_of_two(self) -> "Keep":
        if self.image is None and self.until is None:
            raise ValueError("name an image, or say until when video is kept")
        if self.image is not None and self.until is not None:
            raise ValueError("until is for a stretch of video; leave it out, or leave image out")
        if self.until is not None and self.until <= self.seconds:
            raise ValueError(f"until must be later than seconds = {self.seconds:g}, got {self.until:g}")
        return self


def no_truth_value(value: Any) -> Any:
    """`value`, unless it is true or false, which pydantic would take for 1 or 0."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


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
    guidance_interval: tuple[float, float] = Field(
        WHOLE,
        description="Lowest and highest noise level with guidance, 0 to 1; outside, guidance is 1, and a "
        "pass costs half as much.",
    )
    quality: Quality = Field(
        "exact",
        description="Whether all steps take a pass (`exact`), or those that earlier ones predict do not: "
        "about a third (`high`) or more than half of them (`fast`); by default generate.quality.",
    )
    solver: SolverName = Field(
        "euler", description="How a step is computed; by default generate.solver, or the model's own."
    )
    shift: float | None = Field(
        None,
        ge=0.01,
        le=100,
        description="Shifts the noise levels of the steps towards noise; by default generate.shift.",
    )
    priority: int = Field(
        0, ge=-10, le=10, description="Requests of a higher priority go first, whatever waits."
    )
    deadline_s: float | None = Field(
        None,
        ge=0.001,
        le=1_000_000,
        description="Seconds from its arrival at the app in which its denoising must end; it goes first once "
        "half of its remaining time is needed, and is refused as soon as the time cannot suffice.",
    )
    model: str | None = Field(
        None, max_length=64, description="Name of a model in generate.models; by default generate.model."
    )
    adapter: str | None = Field(
        None, max_length=64, description="Name of an adapter in generate.adapters; by default none."
    )
    adapter_weight: float = Field(1.0, ge=-10, le=10, description="Factor of the adapter's effect.")
    chunk_frames: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Most frames that are made at once; a longer video is made in chunks. By default as many "
        "as the model was trained on and a pass takes.",
    )
    image: str | None = Field(
        None,
        max_length=MAX_URI_CHARS,
        description="A picture: the first frame; for image_to_image, the picture to be made anew.",
    )
    image_last: str | None = Field(
        None, max_length=MAX_URI_CHARS, description="For first_last: the last frame."
    )
    video: str | None = Field(None, max_length=MAX_URI_CHARS, description="A video; the mode says for what.")
    video_after: str | None = Field(
        None, max_length=MAX_URI_CHARS, description="For join: the video that follows the output."
    )
    keep: tuple[Keep, ...] = Field(
        (), max_length=64, description="For infill: the pictures and the stretches of video to keep."
    )
    strength: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="For video_to_video and image_to_image: the fraction of the steps that are taken; the "
        "fewer, the closer the output stays to its source.",
    )
    factor: int | None = Field(
        None, ge=2, le=16, description="For interpolate: fps is this multiple of the video's."
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
            "priority",
            "deadline_s",
            "shift",
            "adapter_weight",
            "strength",
            "factor",
            "chunk_frames",
        ),
        mode="before",
    )
    @classmethod
    def _is_a_number(cls, value: Any) -> Any:
        return no_truth_value(value)

    @field_validator("guidance_interval", mode="before")
    @classmethod
    def _is_an_interval(cls, ends: Any) -> Any:
        if isinstance(ends, list | tuple) and all(type(end) is str for end in ends):  # from a form
            with suppress(ValueError):
                ends = [float(end) for end in ends]
        numbers = isinstance(ends, list | tuple) and all(type(end) in (int, float) for end in ends)
        if not (numbers and len(ends) == 2 and 0 <= ends[0] < ends[1] <= 1):
            raise ValueError("expected a low and a higher noise level, from 0 to 1, such as [0.2, 0.9]")
        return ends

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
    def media(self) -> dict[str, str]:
        """The locations of its media by field; the pictures of `keep` are keep[0], keep[1] and so on."""
        named = {field: getattr(self, field) for field in ("image", "image_last", "video", "video_after")}
        kept = {f"keep[{i}]": keep.image for i, keep in enumerate(self.keep)}
        return {field: uri for field, uri in (named | kept).items() if uri}

    @property
    def n_passes(self) -> int:
        """The steps that are taken: all, or a fraction of `strength`, the last ones, at least one."""
        return self.steps if self.strength is None else max(1, int(self.steps * self.strength + 1e-6))

    @property
    def scales(self) -> tuple[float, float]:
        """The guidance of each expert of a model."""
        return self.guidance, self.guidance if self.guidance_2 is None else self.guidance_2

    @property
    def is_guided(self) -> bool:
        """Whether any pass is guided; none outside of `guidance_interval` is."""
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
        return f"{readable or 'request'}-{stable_id(self._fields, model)}"

    @property
    def digest(self) -> str:
        """SHA-256 of its fields: the request in manifests of provenance and in the audit log."""
        return hashlib.sha256(self._fields.encode()).hexdigest()

    @property
    def _fields(self) -> str:
        later = _WHENEVER | {key for key, default in _LATER.items() if getattr(self, key) == default}
        return self.model_dump_json(exclude=later)


_WHENEVER = {"model", "adapter", "priority", "deadline_s"}
"""Fields that change no output, or not by themselves: model and adapter are in what makes the output."""

_LATER: dict[str, Any] = {
    "guidance_2": None,
    "guidance_interval": WHOLE,
    "quality": "exact",
    "solver": "euler",
    "shift": None,
    "adapter_weight": 1.0,
    "chunk_frames": None,
    "image_last": None,
    "keep": (),
    "strength": None,
    "factor": None,
}
"""Fields that earlier releases did not know: at these values outputs keep their names."""
