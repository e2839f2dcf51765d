"""What published weights are for: noise levels and conditioning frames."""

from dataclasses import dataclass

from vitascope import storage
from vitascope.errors import Mistake
from vitascope.model.formats.card import CARD, ModelCard, load_card
from vitascope.model.formats.pipeline import EXPERTS, INDEX, boundary_of, is_pipeline, shift_of
from vitascope.model.formats.weights import read_document
from vitascope.model.networks import NETWORKS
from vitascope.train.settings import ALL_LEVELS, Conditioning, NoiseRange, TrainSettings


@dataclass(frozen=True)
class Expert:
    """A transformer of a pipeline that Diffusers wrote; the only one, or one of two.

    pipeline: its folder. part: the transformer's subfolder. per_frame: whether it has a timestep for each
    latent frame. boundary: the noise level at which the first of two hands over to the second.
    """

    pipeline: str
    part: str
    per_frame: bool
    boundary: float | None

    @property
    def noise_range(self) -> NoiseRange:
        """The noise levels at which the transformer is used."""
        if self.boundary is None:
            return ALL_LEVELS
        return (0.0, self.boundary) if self.part == EXPERTS[1] else (self.boundary, 1.0)


def expert_at(location: str) -> Expert | None:
    """The transformer at `model.start_from`, a pipeline or a transformer's folder in one; None outside one.

    Raises:
        Mistake: its `model_index.json` is damaged.
    """
    place = storage.absolute(location).rstrip("/")
    parent, _, part = place.rpartition("/")
    folder, part = (parent, part) if part in EXPERTS else (place, EXPERTS[0])
    if not is_pipeline(folder):
        return None
    index = read_document(storage.join(folder, INDEX))
    return Expert(folder, part, index.get("expand_timesteps") is True, boundary_of(folder, index))


@dataclass(frozen=True)
class _Purpose:
    """What weights are for; None if the sizes of the network have to decide."""

    noise_range: NoiseRange = ALL_LEVELS
    per_frame: bool | None = None
    conditioning: Conditioning | None = None
    shift: float | None = None


def _purpose_of(location: str) -> _Purpose:
    if storage.exists(storage.join(location, CARD)):
        card = load_card(location)
        return _Purpose(card.expert, None, card.conditioning_frames, card.timestep_shift)
    if not (expert := expert_at(location)):
        return _Purpose()
    return _Purpose(expert.noise_range, expert.per_frame, shift=shift_of(expert.pipeline))


def check_noise_range(start_from: str, noise_range: NoiseRange) -> NoiseRange:
    """The noise levels that the weights at `start_from` are for, an expert's or all.

    Raises:
        Mistake: `noise_range`, those to train at, goes beyond them; says which to set.
    """
    low, high = expert = _purpose_of(start_from).noise_range
    if not low <= noise_range[0] < noise_range[1] <= high:
        raise Mistake(
            f"the weights in {start_from} are of an expert for noise levels {low:g} to {high:g}, and "
            f"train.noise_range is {list(noise_range)}; set train.noise_range = {list(expert)}, or to a "
            "part of it, or correct model.start_from"
        )
    return expert


def as_trained(card: ModelCard, train: TrainSettings) -> ModelCard:
    """The card with what the settings and the start decide on shift, noise levels and conditioning frames.

    Raises:
        Mistake: as `check_noise_range` does.
    """
    objective, location = NETWORKS[card.model.network].objective, card.model.start_from
    purpose = _purpose_of(location) if location else _Purpose()
    made_for = purpose.conditioning or objective.conditioning_of(card.channels, per_frame=purpose.per_frame)
    asked = train.conditioning_frames
    return card.model_copy(
        update={
            "timestep_shift": train.timestep_shift or purpose.shift or objective.shift,
            "conditioning_frames": made_for if asked == "auto" else asked,
            "noise_range": train.noise_range,
            "expert": check_noise_range(location, train.noise_range) if location else ALL_LEVELS,
        }
    )
