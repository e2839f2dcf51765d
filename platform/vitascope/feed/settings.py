"""Settings of the feed."""

from pydantic import Field

from vitascope.section import Execution, Location, Section

TASKS_AT_ONCE = 2
"""Tasks that load packs, of one CPU each."""


class FeedSettings(Section):
    """How samples become packs, and packs become steps."""

    token_budget: int = Field(16_384, ge=64, description="Most patches in a pack; memory is linear in it.")
    packs_per_step: int = Field(8, ge=1, description="Packs in a global step, whatever the number of ranks.")
    window_samples: int = Field(
        131_072, ge=1, description="Samples planned together; bounds the planner's memory."
    )
    latents: Execution[Location | None] = Field(
        None,
        description="Folder `latents` of another run, with the same clips and settings of encode, to train "
        "on; by default the run's own.",
    )
    prefetch_packs: Execution[int] = Field(
        16, ge=1, description="Packs loaded together, ahead of need; a rank holds up to twice as many."
    )
