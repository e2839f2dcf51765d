"""Settings of evaluation."""

from pydantic import Field

from vitascope.section import Section


class EvaluateSettings(Section):
    """Held-out losses of a trained model."""

    timesteps: tuple[float, ...] = Field(
        (0.1, 0.3, 0.5, 0.7, 0.9), min_length=1, description="Noise levels probed."
    )
