"""What one output is to be."""

import re
from enum import StrEnum
from typing import Any

from pydantic import Field, field_validator

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
    adapter: str | None = Field(
        None, max_length=64, description="Name of an adapter in generate.adapters; by default none."
    )
    adapter_weight: float = Field(1.0, ge=-10, le=10, description="Factor of the adapter's effect.")
    image: str | None = Field(
        None, max_length=MAX_URI_CHARS, description="For image_to_video: the first frame."
    )
    video: str | None = Field(
        None, max_length=MAX_URI_CHARS, description="For extend_forward, extend_backward and join: a video."
    )
    video_after: str | None = Field(
        None, max_length=MAX_URI_CHARS, description="For join: the video that follows the output."
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

    @field_validator("guidance_interval", mode="before")
    @classmethod
    def _is_an_interval(cls, ends: Any) -> Any:
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
        later = {"adapter"} | {key for key, default in _LATER.items() if getattr(self, key) == default}
        return f"{readable or 'request'}-{stable_id(self.model_dump_json(exclude=later), model)}"


_LATER = {
    "guidance_2": None,
    "guidance_interval": WHOLE,
    "quality": "exact",
    "solver": "euler",
    "shift": None,
    "adapter_weight": 1.0,
}
"""Fields that earlier releases did not know: at these values outputs keep their names. The adapter is part of
the model's identity."""
