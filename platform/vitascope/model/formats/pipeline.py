"""A whole pipeline of Wan, as Diffusers publishes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitascope import storage
from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import make_text_encoder
from vitascope.errors import Missing, Mistake
from vitascope.model.formats.card import ModelCard
from vitascope.model.formats.start import Start
from vitascope.model.formats.weights import SUBFOLDER, open_weights, read_config, read_document
from vitascope.model.wan import TEXT_POSITIONS
from vitascope.records import stable_id
from vitascope.section import shown

INDEX = "model_index.json"
EXPERTS = (SUBFOLDER, "transformer_2")
"""The folders of networks: for all noise levels, or from the boundary up; and for those below it."""

_CLASSES = ("WanPipeline", "WanImageToVideoPipeline")
_SCHEDULER = ("scheduler", "scheduler_config.json")


@dataclass(frozen=True)
class Pipeline:
    """A folder with everything that generation needs.

    card: with `timestep_shift` 1; the scheduler decides about that. experts: their weights, unread.
    scheduler: its configuration, read from scheduler_uri. boundary: the fraction of the timesteps below which
    the second expert begins; None if there is one. expand_timesteps: each latent frame has a timestep of its
    own, so that the first one can be given. identity: changes with everything but the folder's place.
    """

    folder: str
    card: ModelCard
    experts: tuple[Start, ...]
    scheduler: Mapping[str, Any]
    boundary: float | None
    expand_timesteps: bool
    identity: str

    @property
    def scheduler_uri(self) -> str:
        """The file with the scheduler's configuration."""
        return storage.join(self.folder, *_SCHEDULER)


def is_pipeline(folder: str) -> bool:
    """Whether a folder claims to hold a whole pipeline."""
    return storage.exists(storage.join(folder, INDEX))


def open_pipeline(folder: str, encode: EncodeSettings) -> Pipeline:
    """The pipeline in a folder; of its weights, only headers are read, and samples for the identity.

    Args:
        encode: the settings whose precisions codec and text encoder compute in.

    Raises:
        Missing, Mistake: a part is missing, damaged, of another family or of an unsafe format, or two parts
            do not fit together.
    """
    index = _index(folder)
    experts = tuple(open_expert(folder, name) for name in EXPERTS if _has(index, name))
    boundary = _boundary(folder, index, experts)
    of = experts[0].of
    own = EncodeSettings(
        codec="diffusers",
        codec_folder=folder,
        codec_precision=encode.codec_precision,
        text_encoder="hf",
        text_folder=folder,
        text_precision=encode.text_precision,
        max_text_tokens=TEXT_POSITIONS,
    )
    try:
        codec, text = make_codec(own), make_text_encoder(own)
        made = codec.fingerprint, text.fingerprint
    except (Missing, Mistake) as error:
        raise type(error)(f"the pipeline in {folder} is not whole: {error}") from None
    scheduler = read_document(storage.join(folder, *_SCHEDULER))
    expand = index.get("expand_timesteps") is True
    card = ModelCard(
        model=of.settings,
        encode=own,
        channels=of.channels,
        text_dim=of.text_dim,
        fingerprint=stable_id(*made),
        timestep_shift=1.0,
        step=0,
    )
    weights = [start.identity for start in experts]
    identity = stable_id(*weights, *made, storage.dumps(scheduler), boundary, expand)
    return Pipeline(folder, card, experts, scheduler, boundary, expand, identity)


def _index(folder: str) -> Mapping[str, Any]:
    uri = storage.join(folder, INDEX)
    index = read_document(uri)
    if (kind := index.get("_class_name")) not in _CLASSES:
        raise Mistake(
            f"{uri} describes a {shown(kind)}; expected {' or '.join(_CLASSES)}, of Wan 2.1 T2V, Wan 2.2 "
            "T2V-A14B or TI2V-5B; name the folder of one"
        )
    return index


def _has(index: Mapping[str, Any], name: str) -> bool:
    """Whether the index names a class for a part; absent ones are [null, null]."""
    part = index.get(name)
    return isinstance(part, list) and bool(part) and part[-1] is not None


def open_expert(folder: str, name: str) -> Start:
    """A network of the pipeline in `folder`, by its subfolder; only headers are read so far."""
    place = storage.join(folder, name)
    of = read_config(place)
    return Start(of, open_weights(place, of))


def boundary_of(folder: str, index: Mapping[str, Any]) -> float | None:
    """The fraction of the timesteps at which the first of two experts hands over; None without experts.

    Raises:
        Mistake: it is not between 0 and 1.
    """
    boundary = index.get("boundary_ratio")
    if boundary is not None and not (isinstance(boundary, float) and 0 < boundary < 1):
        raise Mistake(
            f"{storage.join(folder, INDEX)} says boundary_ratio = {shown(boundary)}; expected a number "
            "between 0 and 1, as in the published file"
        )
    return boundary


def shift_of(folder: str) -> float | None:
    """The shift of timesteps that a pipeline's scheduler has; None if it has none."""
    uri = storage.join(folder, *_SCHEDULER)
    config = read_document(uri) if storage.exists(uri) else {}
    shift = config.get("flow_shift", config.get("shift"))
    return float(shift) if isinstance(shift, int | float) and shift > 0 else None


def _boundary(folder: str, index: Mapping[str, Any], experts: Sequence[Start]) -> float | None:
    """The boundary of two experts; refuses what does not belong together."""
    uri, boundary = storage.join(folder, INDEX), boundary_of(folder, index)
    if boundary is None and len(experts) == 1 and _has(index, EXPERTS[0]):
        return None
    if len(experts) != len(EXPERTS) or boundary is None:
        has = " and ".join(name for name in EXPERTS if _has(index, name)) or "no transformer"
        raise Mistake(
            f"{uri} has {has} and boundary_ratio = {shown(boundary)}; expected a transformer alone and no "
            "boundary_ratio, or both transformers and one between 0 and 1"
        )
    first, second = ((start.of.settings, start.of.channels, start.of.text_dim) for start in experts)
    if first != second:
        raise Mistake(f"the two transformers in {folder} have different sizes; {_AGAIN}")
    return boundary


_AGAIN = "copy the folder again from its publisher"
