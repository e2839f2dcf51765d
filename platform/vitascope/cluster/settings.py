"""Settings of the Ray cluster a job runs on."""

from pydantic import Field

from vitascope.section import Section


class ClusterSettings(Section):
    """Where Ray is."""

    address: str | None = Field(
        None,
        description="Address of a running cluster; RAY_ADDRESS too. Without one, a local one is started.",
    )
    local_cpus: int = Field(
        8, ge=4, description="Logical CPUs of a local cluster: slots for tasks and actors, not cores."
    )
