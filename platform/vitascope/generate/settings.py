"""Settings of generation."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from vitascope.section import Execution, Location, Section

TEXT_CPUS, DECODE_CPUS, INGRESS_CPUS = 0.5, 1.0, 0.1
"""CPUs of a replica of the app, of each kind but the one that runs the model."""

Quality = Literal["exact", "high", "fast"]
SolverName = Literal["euler", "dpmpp_2m", "unipc"]

NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"


class GenerateSettings(Section):
    """The app's limits and the defaults of a request."""

    requests: Location | None = Field(None, description="JSON-lines file of requests, local, s3:// or gs://.")
    media_from: tuple[Location, ...] = Field(
        (),
        description="Folders and bucket prefixes with media for requests, in addition to their file's own.",
    )
    batch: str = Field(
        "batch",
        pattern=NAME,
        description="Name of the batch: letters, digits, `-`, `_` and, except as its first character, `.`; "
        "outputs go to outputs/<batch>/.",
    )
    model: Location | None = Field(
        None,
        description="Folder of a model: one of a run, with model.safetensors, or a whole pipeline of Wan as "
        "Diffusers publishes it; by default the run's own.",
    )
    adapters: dict[Annotated[str, Field(pattern=NAME, max_length=64)], tuple[Location, ...]] = Field(
        {},
        description="Adapters (LoRA) that requests may use, by a name: a safetensors file, a folder with "
        "one, or the run that trained it. A model with two experts may have a list of two, the first for "
        "high noise; one alone is used by both.",
    )
    token_budget: int = Field(16_384, ge=64, description="Most patches in one forward pass.")
    max_in_flight: Execution[int] = Field(
        32, ge=1, description="Requests sent to the app and not yet answered."
    )
    denoise_replicas: Execution[int] = Field(1, ge=1, description="Most replicas that run the model.")
    denoise_cpus: Execution[int] = Field(
        2, ge=1, description="CPUs of each; without a GPU also its number of threads."
    )
    use_gpu: Execution[bool] = Field(False, description="Run each denoise replica on a GPU.")
    text_replicas: Execution[int] = Field(1, ge=1, description="Most replicas that encode prompts.")
    decode_replicas: Execution[int] = Field(
        1, ge=1, description="Most replicas that read media, decode and write."
    )
    text_gpus: Execution[float] = Field(
        0.0, ge=0, le=1, description="GPUs per text replica; 0.5 puts two on one GPU, 0 uses CPUs."
    )
    decode_gpus: Execution[float] = Field(
        0.0,
        ge=0,
        le=1,
        description="GPUs per decode replica, for the video codec, as text_gpus.",
    )
    idle_s: Execution[float] = Field(300, gt=0, description="Seconds after which an idle replica is removed.")
    traces: Execution[Literal["off", "files", "otlp"]] = Field(
        "off",
        description="Traces of requests, once Serve starts on a cluster: to files next to its logs, or to "
        "the OpenTelemetry collector at OTEL_EXPORTER_OTLP_ENDPOINT. A service has this in its Serve "
        "configuration (cluster/kuberay/rayservice.yaml).",
    )
    traced_share: Execution[float] = Field(
        1.0, gt=0, le=1, description="Fraction of the requests that are traced."
    )
    steps: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Default number of sampling steps; if not set, 30, or 50 for a published pipeline.",
    )
    guidance: float | None = Field(
        None,
        ge=1,
        le=1000,
        description="Default guidance scale; 1 turns guidance off. If not set, 4, or 5 for a published "
        "pipeline.",
    )
    guidance_2: float | None = Field(
        None,
        ge=1,
        le=1000,
        description="Default guidance scale of the second expert, for a model that has two; if not set, that "
        "of the first.",
    )
    quality: Quality = Field(
        "exact",
        description="Default quality: high and fast leave out passes that the earlier ones of a request "
        "predict.",
    )
    invariant: bool = Field(
        False,
        description="Make each result, to the last bit, what the request gets alone, by computing the "
        "requests of a pass one after another. On one kind of machine with the same number of threads. Costs "
        "what packing gains: two thirds of the throughput for requests of 16 patches, a quarter for 64.",
    )
    solver: SolverName | None = Field(
        None,
        description="Default solver; if not set, that of a published pipeline's scheduler, or euler.",
    )
    shift: float | None = Field(
        None,
        ge=0.01,
        le=100,
        description="Default shift of noise levels towards noise; if not set, that of the model's training "
        "or of a published pipeline's scheduler.",
    )
    max_pixels: int = Field(1280 * 720, ge=256, description="Largest frame area a request may ask for.")
    max_frames: int = Field(129, ge=1, description="Most frames a request may ask for.")

    @field_validator("adapters", mode="before")
    @classmethod
    def _may_be_one(cls, adapters: Any) -> Any:
        if not isinstance(adapters, dict):
            return adapters
        return {name: (place,) if isinstance(place, str) else place for name, place in adapters.items()}
