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

    requests: Location | None = Field(
        None, description="File of requests, JSON lines, CSV or Parquet; local, s3:// or gs://."
    )
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
    models: dict[Annotated[str, Field(pattern=NAME, max_length=64)], Location] = Field(
        {},
        description="Further models that requests may name, by a name: folders like generate.model. Each has "
        "replicas of its own, while it is in use.",
    )
    follow_s: Execution[float | None] = Field(
        None,
        gt=0,
        description="Seconds between checks of a service whether the folder of a model holds another one, a "
        "newer checkpoint, which new requests then use; if not set, it keeps those it started with.",
    )
    adapters: dict[Annotated[str, Field(pattern=NAME, max_length=64)], tuple[Location, ...]] = Field(
        {},
        description="Adapters (LoRA) that requests may use, by a name: a safetensors file, a folder with "
        "one, or the run that trained it. A model with two experts may have a list of two, the first for "
        "high noise; one alone is used by both.",
    )
    max_tokens: int = Field(
        16_384, ge=64, description="Most patches that one request may have in a forward pass."
    )
    token_budget: int | None = Field(
        None,
        ge=64,
        description="Size of the forward passes that requests share, in patches of a tiny image: a patch of "
        "a large request counts more, because attention is quadratic in a request. If not set, each machine "
        "measures once from which size on passes gain nothing. A larger request has passes of its own.",
    )
    save_state_s: Execution[float] = Field(
        20.0,
        gt=0,
        description="Seconds between two copies of a running request's state, from which another replica "
        "continues if this one is killed.",
    )
    max_in_flight: Execution[int] = Field(
        32, ge=1, description="Requests sent to the app and not yet answered."
    )
    tries: Execution[int] = Field(
        3,
        ge=1,
        description="How often a request is sent if its replica dies each time, or if it fails otherwise.",
    )
    device_hour_price: Execution[float | None] = Field(
        None,
        gt=0,
        description="Price of an hour of a denoise replica, in any currency, for the cost of each output.",
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
    queue_s: Execution[float] = Field(
        10.0,
        gt=0,
        description="Seconds in which another replica of a deployment should work off what waits for it: "
        "fewer seconds start more replicas, up to the most.",
    )
    longest_request_s: Execution[float] = Field(
        3600.0,
        gt=0,
        description="A replica that is to be removed first finishes its requests, for at most so long.",
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
    max_frames: int = Field(1801, ge=1, description="Most frames a request may ask for.")
    chunk_frames: int | None = Field(
        None,
        ge=1,
        description="Default of the most frames that are made at once; if not set, as many as the model was "
        "trained on.",
    )

    @field_validator("adapters", mode="before")
    @classmethod
    def _may_be_one(cls, adapters: Any) -> Any:
        if not isinstance(adapters, dict):
            return adapters
        return {name: (place,) if isinstance(place, str) else place for name, place in adapters.items()}
