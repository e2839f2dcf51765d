"""Settings of evaluation."""

from typing import Annotated

from pydantic import Field

from vitascope.section import Execution, Section


class EvaluateSettings(Section):
    """Held-out losses of a trained model."""

    timesteps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.1, 0.3, 0.5, 0.7, 0.9),
        min_length=1,
        description="Noise levels to probe, also for the held-out loss in training; 1 is pure noise. Levels "
        "that the model is not trained at (train.noise_range) are left out.",
    )
    cpus: Execution[int] = Field(2, ge=1, description="CPUs of a submitted evaluation on its node.")

    def timesteps_within(self, noise_range: tuple[float, float]) -> tuple[float, ...]:
        """Those that a model trained at these noise levels, from the lowest to the highest, is probed at."""
        low, high = noise_range
        return tuple(timestep for timestep in self.timesteps if low <= timestep <= high)
