"""Settings of prompts."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from vitascope.clips.filters import HookFilter
from vitascope.section import Execution, Location, Section

_FUNCTION = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


class PromptsSettings(Section):
    """Rewriting, refusing and logging of prompts."""

    upsample: str = Field(
        "off",
        pattern=rf"^(off|endpoint|local|{_FUNCTION})$",
        description="Rewrite prompts in more words: off; an OpenAI-compatible endpoint; local, a language "
        "model of transformers; or `module:function`, from a prompt to a prompt.",
    )
    on_failure: Literal["refuse", "original"] = Field(
        "refuse",
        description="If a prompt cannot be rewritten: refuse the request, or use it as it was asked.",
    )
    instruction: str = Field(
        "Rewrite this prompt of a video as one detailed paragraph in English: subjects, motion, setting, "
        "light, camera. Keep everything that it asks for. Answer with the paragraph alone.",
        min_length=1,
        description="Instruction to the model; the prompt follows.",
    )
    endpoint: str = Field(
        "https://api.openai.com/v1",
        pattern=r"^https?://[^@]+$",
        description="Base URL of the endpoint, without credentials; its key is OPENAI_API_KEY on the nodes.",
    )
    endpoint_model: str | None = Field(None, description="Name of the endpoint's model.")
    endpoint_options: dict[str, str | int | float | bool] = Field(
        {"temperature": 0, "seed": 0}, description="Further fields of a request to the endpoint."
    )
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="The endpoint's name for the longest answer."
    )
    max_tokens: int = Field(400, ge=1, le=4096, description="Longest answer, in the model's tokens.")
    timeout_s: Execution[float] = Field(60.0, gt=0, description="Longest wait for one attempt's answer.")
    retries: Execution[int] = Field(4, ge=0, description="Further attempts of a request to the endpoint.")
    folder: Location | None = Field(
        None, description="Folder of the local model: a causal language model with a chat template."
    )
    options: dict[str, str | float] = Field({}, description="Keyword arguments of upsample's function.")
    filter: str = Field(
        "list",
        pattern=rf"^(off|list|{_FUNCTION})$",
        description="Refuse prompts: off; list, a short list of words of sexual content with minors; or "
        "`module:function`, from a prompt to the reason for refusing it, or None.",
    )
    filter_options: dict[str, str | float] = Field({}, description="Keyword arguments of filter's function.")
    frames: HookFilter = Field(
        HookFilter(),
        description='Refuse outputs: with use = "drop", those with a frame beyond min or max.',
    )
    audit_days: Execution[int] = Field(
        0, ge=0, description="Days for which the log of who asked for what is kept; 0 keeps none."
    )
    in_flight: Execution[int] = Field(16, ge=1, le=256, description="Prompts in work at a time.")
    cpus: Execution[float] = Field(1.0, gt=0, description="CPUs of the process that rewrites and filters.")
    use_gpu: Execution[bool] = Field(False, description="Give that process a GPU.")

    @field_validator("frames")
    @classmethod
    def _refuses(cls, frames: HookFilter) -> HookFilter:
        if frames.use == "score":
            raise ValueError('use = "score" would change nothing; use = "drop" refuses outputs')
        return frames

    @model_validator(mode="after")
    def _names_its_model(self) -> "PromptsSettings":
        needed = {"endpoint": "endpoint_model", "local": "folder"}.get(self.upsample)
        if needed and not getattr(self, needed):
            raise ValueError(f"upsample is {self.upsample}, and prompts.{needed} is not set; set it")
        return self

    @property
    def works(self) -> bool:
        """Whether prompts need a process of their own."""
        return self.upsample != "off" or ":" in self.filter
