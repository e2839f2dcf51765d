"""Settings of the caption stage."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from vitascope.section import Execution, Location, Section

_Value = str | int | float | bool


class CaptionSettings(Section):
    """Which clips get a caption, and from which model."""

    source: Literal["off", "folder", "endpoint"] = Field(
        "off", description="off: no model; a transformers model in a folder; an OpenAI-compatible endpoint."
    )
    clips: Literal["missing", "all"] = Field(
        "missing", description="Ask for clips without a caption in any field, or for all clips."
    )
    prompts: dict[str, str] = Field(
        {"caption": "Describe this video in one paragraph: what is seen, what happens, how it is filmed."},
        min_length=1,
        description="The prompt of each caption field, which clips.caption_fields gives a weight; every "
        "field costs a request for each clip.",
    )
    frames: int = Field(4, ge=1, le=64, description="Frames of a clip to show, evenly spaced.")
    max_side_px: int = Field(512, ge=32, description="Frames are scaled down to this longer side.")
    max_tokens: int = Field(300, ge=1, description="Longest caption, in the model's tokens.")
    refusal: str = Field(
        r"(?i)^\W*((i|we)('m|’m|'re|’re| am| are) )?(very |so )?(sorry|unable to|not able to)\b"
        r"|^\W*(i|we) can(no|'|’)?t\b",
        description="Regular expression of answers that are no captions; empty accepts every answer.",
    )
    workers: Execution[int] = Field(1, ge=1, description="Most captioning processes on the whole cluster.")
    clips_per_part: Execution[int] = Field(
        64,
        ge=1,
        le=4096,
        description="Clips committed together; a worker that is killed repeats at most these.",
    )
    folder: Location | None = Field(
        None,
        description="Folder of the model: weights, config and processor, as transformers saves them. It "
        "computes in the number format of its config, or in float32 if that is slow on its node.",
    )
    batch_size: Execution[int] = Field(8, ge=1, description="Clips in a batch of the model in a folder.")
    worker_cpus: Execution[int] = Field(
        2, ge=1, description="CPUs of each process with the model in a folder."
    )
    use_gpu: Execution[bool] = Field(False, description="Give each of these processes a GPU.")
    endpoint: str = Field(
        "https://api.openai.com/v1",
        pattern=r"^https?://[^@]+$",
        description="Base URL of the endpoint, http:// or https://, without credentials. If it needs a "
        "key, set OPENAI_API_KEY on the workers.",
    )
    endpoint_model: str | None = Field(None, description="Name of the endpoint's model.")
    endpoint_options: dict[str, _Value] = Field(
        {}, description="Further fields of a request, as the endpoint names them: temperature, seed, …"
    )
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="The endpoint's name for the longest answer; OpenAI's newer models differ."
    )
    in_flight: Execution[int] = Field(16, ge=1, description="Requests in flight of a process.")
    timeout_s: float = Field(120.0, gt=0, description="Longest wait for an answer to one attempt.")
    retries: int = Field(
        6, ge=0, description="Further attempts after 408, 409, 429, 5xx, a timeout or a lost connection."
    )

    @field_validator("refusal")
    @classmethod
    def _is_an_expression(cls, refusal: str) -> str:
        try:
            re.compile(refusal)
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        return refusal

    @model_validator(mode="after")
    def _names_its_model(self) -> "CaptionSettings":
        needed = {"folder": self.folder, "endpoint": self.endpoint_model}
        if self.source != "off" and not needed[self.source]:
            key = {"folder": "folder", "endpoint": "endpoint_model"}[self.source]
            raise ValueError(f"caption.source is {self.source}, and caption.{key} is not set; set it")
        return self
