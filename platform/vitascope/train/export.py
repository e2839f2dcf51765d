"""Weights of a run or a model, written as others read them."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch

from vitascope import checksum, precision, storage
from vitascope.copies import copy_file
from vitascope.errors import Missing, Mistake
from vitascope.model.formats.adapters import AdapterFormat, layer_shapes, write_adapter
from vitascope.model.formats.card import CARD, WEIGHTS, ModelCard, load_card
from vitascope.model.formats.load import base_of
from vitascope.model.formats.pipeline import INDEX
from vitascope.model.formats.purpose import Expert, expert_at
from vitascope.model.formats.start import Start, open_start
from vitascope.model.formats.stored import DTYPES, Weights
from vitascope.model.formats.wan_names import Published
from vitascope.model.formats.weights import Format, export_weights
from vitascope.model.lora import Merged, Pair, pairs_of
from vitascope.precision import Precision
from vitascope.train.job import State
from vitascope.train.settings import ALL_LEVELS
from vitascope.train.shards import file_name
from vitascope.weights import read_header

Kind = Literal["ema", "raw"]
_AGAIN = "copy the folder again"


@dataclass(frozen=True)
class Chosen:
    """What is exported: the published model, or a checkpoint if raw weights or a step are asked for.

    step: of the checkpoint; None for the newest one. merge: write adapters into the weights that they adapt.
    """

    kind: Kind = "ema"
    step: int | None = None
    precision: Precision | None = None
    merge: bool = False


def export(source: str, to: str, format: Format | AdapterFormat, chosen: Chosen) -> list[str]:
    """Writes the weights of a run's folder or of a model's folder to the folder `to`; says what it wrote.

    Numbers have the format of the weights that training started from, unless a precision is chosen; float32
    if it started from fresh ones. If it started from a pipeline, or from one of its transformers, diffusers'
    format is that pipeline with the new weights instead of those; the other expert's are copied. Adapters are
    written alone, in float32 unless a precision is chosen, or are merged.

    Raises:
        Missing, Mistake: there are no such weights, they are damaged, or there is no such format of them.
    """
    weights, card = _opened(source, chosen)
    origin, said = _origin(card), []
    expert = expert_at(origin) if origin else None
    _refuse_overwriting(to, [source, expert.pipeline if expert else origin or source])
    alone = bool(card.model.lora) and not chosen.merge
    _check_format(format, chosen, card)
    if card.model.lora:
        pairs = pairs_of(weights, card.model.lora)
        if alone:
            dtype = precision.DTYPES[chosen.precision or "float32"]
            uri = write_adapter(to, pairs, cast(AdapterFormat, format), dtype)
            said = [f"adapter, {chosen.kind} weights after step {card.step}, as {format}: {uri}"]
            return [*said, *_hints(card, pairs, format)]
        weights = Merged(base_of(card).weights, pairs)
    try:
        start = open_start(origin) if origin else None
    except Missing:
        start, said = None, [f"{origin} is gone, from which training started: its format and parts are lost"]
    whole = card.model.model_copy(update={"lora": None})
    of = start.of if start else Published(whole, card.channels, card.text_dim)
    inside = to
    if start and expert and format == "diffusers":
        _copy_around(expert, to)
        inside = storage.join(to, expert.part)
    tensors = _InFormat(weights, start, chosen.precision)
    export_weights(inside, tensors, of, format=cast(Format, format))
    if inside != to and expert:  # last, since it makes the folder a pipeline
        copy_file(storage.join(expert.pipeline, INDEX), storage.join(to, INDEX))
    return [*said, f"{chosen.kind} weights after step {card.step}, as {format}: {inside}"]


def _hints(card: ModelCard, pairs: Mapping[str, Pair], format: str) -> Iterator[str]:
    """What diffusers needs to be asked for to load an adapter, if anything."""
    if card.expert[0] == 0 and card.expert != ALL_LEVELS:
        yield "it is for the second expert: diffusers loads it with load_into_transformer_2=True"
    layers = layer_shapes(card.model, card.channels, card.text_dim)
    usual = {layer for layer in layers if layer.startswith("blocks.")}
    if (format == "kohya" and pairs.keys() != usual) or (format == "comfyui" and not pairs.keys() & usual):
        yield f"diffusers reads adapters of these layers only in its own format, not as {format}"


def _check_format(format: str, chosen: Chosen, card: ModelCard) -> None:
    """Refuses a format that does not exist of what is exported: adapters alone, or all weights."""
    if chosen.merge and not card.model.lora:
        raise Mistake("--merge is for adapters, and this model has none; leave it out")
    if card.model.network != "wan":
        raise Mistake(f"model.network = {card.model.network} has no published format; expected wan")
    alone = bool(card.model.lora) and not chosen.merge
    known = get_args(AdapterFormat if alone else Format)
    if format not in known:
        what = "adapters; add --merge for all weights" if alone else "weights of a whole model"
        raise Mistake(f"--format is {format}; expected {', '.join(known)} for {what}")


def _origin(card: ModelCard) -> str | None:
    """The published weights that the first of a chain of runs started from; None if it had fresh ones."""
    place = card.model.start_from
    while place and storage.exists(storage.join(place, CARD)):
        place = load_card(place).model.start_from
    return place


def _refuse_overwriting(to: str, read: Sequence[str]) -> None:
    """Refuses a folder that is read from, and one that holds another pipeline or model."""
    for place in read:
        if to == place or storage.is_within(to, place) or storage.is_within(place, to):
            raise Mistake(f"{to} and {place}, which is read, overlap; export to another folder")
    for name in (INDEX, CARD):
        if storage.exists(storage.join(to, name)):
            raise Mistake(f"{to} already holds {name}; export to another folder, or delete that one first")


def _opened(source: str, chosen: Chosen) -> tuple[Mapping[str, torch.Tensor], ModelCard]:
    published = [folder for folder in (source, storage.join(source, "model")) if _has_card(folder)]
    if published and chosen.kind == "ema" and chosen.step is None:
        uri = storage.join(published[0], WEIGHTS)
        checksum.check(uri)
        return Weights(read_header(uri, _AGAIN)), load_card(published[0])
    folder = _checkpoint(source, chosen.step)
    state = State.model_validate_json(checksum.read(storage.join(folder, "state.json")))
    return _OfCheckpoint(folder, state, chosen.kind), load_card(folder)


def _has_card(folder: str) -> bool:
    return storage.exists(storage.join(folder, CARD)) and storage.exists(storage.join(folder, WEIGHTS))


def _checkpoint(run: str, step: int | None) -> str:
    """The folder of a run's newest checkpoint, or of the one after `step`."""
    files = storage.list_files(storage.join(run, "train", "checkpoints"))
    begun = [file.removesuffix("/state.json") for file in files if file.endswith("/state.json")]
    folders = {int(folder.rpartition("-")[2]): folder for folder in begun if _is_whole(folder, set(files))}
    if not folders:
        raise Missing(f"no model and no checkpoint in {run}; name the folder of a run or of a model")
    if step is not None and step not in folders:
        has = ", ".join(map(str, sorted(folders)))
        raise Missing(f"{run} has no checkpoint after step {step}; it has them after {has}")
    return folders[max(folders) if step is None else step]


def _is_whole(folder: str, files: Container[str]) -> bool:
    """Whether every rank has left its part of a checkpoint."""
    ranks = State.model_validate_json(storage.read_bytes(storage.join(folder, "state.json"))).ranks
    return all(storage.join(folder, file_name(rank, ranks)) in files for rank in range(ranks))


class _OfCheckpoint(Mapping[str, torch.Tensor]):
    """The weights of a checkpoint, each put together from all shards when it is looked up."""

    def __init__(self, folder: str, state: State, kind: Kind) -> None:
        self._shapes, self._kind = state.shapes, {"ema": "ema", "raw": "master"}[kind]
        uris = [storage.join(folder, file_name(rank, state.ranks)) for rank in range(state.ranks)]
        for uri in uris:
            checksum.check(uri)
        self._shards = [Weights(read_header(uri, _AGAIN)) for uri in uris]

    def __getitem__(self, name: str) -> torch.Tensor:
        parts = [shard.read(f"{self._kind}/{name}") for shard in self._shards]
        return torch.cat(parts).reshape(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


@dataclass(frozen=True)
class _InFormat(Mapping[str, torch.Tensor]):
    """Weights in the number format that is chosen, or that they had at the start."""

    weights: Mapping[str, torch.Tensor]
    start: Start | None
    precision: Precision | None

    def __getitem__(self, name: str) -> torch.Tensor:
        before = self.start.weights.tensors[name].format if self.start else "F32"
        return self.weights[name].to(precision.DTYPES[self.precision] if self.precision else DTYPES[before])

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def _copy_around(expert: Expert, to: str) -> None:
    """Copies a pipeline's other parts: autoencoder, text encoder, tokenizer, scheduler, another expert.

    Its index is not among them.
    """
    for uri in storage.list_files(expert.pipeline):
        name = uri.removeprefix(expert.pipeline).lstrip("/")
        if name == INDEX or name.startswith(f"{expert.part}/"):
            continue
        if not storage.is_within(uri, expert.pipeline):
            raise Mistake(f"{uri} does not lie in {expert.pipeline}; {_AGAIN}")
        copy_file(uri, storage.join(to, name))
