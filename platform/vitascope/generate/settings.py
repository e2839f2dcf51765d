"""Settings of generation."""

from typing import Literal

from pydantic import Field

from vitascope.section import Execution, Location, Section

TEXT_CPUS, DECODE_CPUS, INGRESS_CPUS = 0.5, 1.0, 0.1
"""CPUs of a replica of the app, of each kind but the one that runs the model."""


class GenerateSettings(Section):
    """The app's limits and the defaults of a request."""

    requests: Location | None = Field(None, description="JSON-lines file of requests, local, s3:// or gs://.")
    media_from: tuple[Location, ...] = Field(
        (),
        description="Folders and buckets' prefixes that requests may name media in, beside their file's own.",
    )
    batch: str = Field(
        "batch",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
        description="Name of the batch: letters, digits, `-`, `_` and, not at its beginning, `.`; outputs go "
        "to outputs/<batch>/.",
    )
    model: Location | None = Field(
        None, description="Folder with model.safetensors; by default the run's own."
    )
    token_budget: int = Field(16_384, ge=64, description="Most patches in one forward pass.")
    max_in_flight: Execution[int] = Field(
        32, ge=1, description="Requests sent to the app and not yet answered."
    )
    denoise_replicas: Execution[int] = Field(1, ge=1, description="Most replicas that run the model.")
    denoise_cpus: Execution[int] = Field(
        2, ge=1, description="CPUs of each; without a GPU as many threads compute."
    )
    use_gpu: Execution[bool] = Field(False, description="Run each denoise replica on a GPU.")
    text_replicas: Execution[int] = Field(1, ge=1, description="Most replicas that encode prompts.")
    decode_replicas: Execution[int] = Field(
        1, ge=1, description="Most replicas that read media, decode and write."
    )
    idle_s: Execution[float] = Field(
        300, gt=0, description="Seconds after which a replica that is not needed goes."
    )
    traces: Execution[Literal["off", "files", "otlp"]] = Field(
        "off",
        description="Traces of requests, from when Serve starts on a cluster: to files beside its logs, or "
        "to the OpenTelemetry collector at OTEL_EXPORTER_OTLP_ENDPOINT. A service has it in its Serve "
        "configuration (cluster/kuberay/rayservice.yaml).",
    )
    traced_share: Execution[float] = Field(
        1.0, gt=0, le=1, description="Share of the requests that are traced."
    )
    steps: int = Field(30, ge=1, le=1000, description="Default number of sampling steps.")
    guidance: float = Field(4.0, ge=1, le=1000, description="Default guidance scale; 1 turns guidance off.")
    max_pixels: int = Field(1280 * 720, ge=256, description="Largest frame area a request may ask for.")
    max_frames: int = Field(129, ge=1, description="Most frames a request may ask for.")
