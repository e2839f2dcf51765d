"""Settings of the HTTP service."""

from typing import Annotated

from pydantic import Field

from vitascope.section import Section

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class ServeSettings(Section):
    """The service's address, the names of its model, and what a client may send."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address that `vitascope serve` listens on; 0.0.0.0 is every address of the machine, in "
        "clear text.",
    )
    port: int = Field(8000, ge=1, le=65_535, description="Port of `vitascope serve`.")
    replicas: int = Field(1, ge=1, le=100, description="Replicas that answer HTTP.")
    models: tuple[Annotated[str, Field(pattern=NAME, max_length=64)], ...] = Field(
        ("vitascope",),
        min_length=1,
        description="Names under which clients may ask for the model; the first is shown.",
    )
    size: str = Field(
        "832x480",
        pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$",
        description="Default size of an output, width x height.",
    )
    seconds: float = Field(4, gt=0, le=86_400, description="Default duration of a video.")
    max_upload_mib: int = Field(512, ge=1, le=1 << 20, description="Largest body of a request, in MiB.")
