"""Settings of the Ray cluster that a job runs on."""

from pydantic import Field

from vitascope.section import Section


class ClusterSettings(Section):
    """Ray's address, and the placement of work on its nodes."""

    address: str | None = Field(
        None,
        description="Address of a running cluster, or RAY_ADDRESS. Without either, a local one is started.",
    )
    local_cpus: int = Field(
        8, ge=4, description="Logical CPUs of a local cluster: slots for tasks and actors, not cores."
    )
    place_by_label: bool = Field(
        False,
        description="Work only on nodes labelled vitascope-node=decode (clips, encode), train or generate.",
    )
    stop_wait_s: int = Field(600, ge=3, description="Seconds for a stopping job's last checkpoint.")
    allow_open: bool = Field(
        False,
        description="Use a cluster that accepts unauthenticated requests, or whose files others could "
        "replace; only if nobody else can reach it.",
    )
