"""The model that generates: one of our own, or a published pipeline."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from vitascope import checksum, storage
from vitascope.config import Settings
from vitascope.errors import Missing, Mistake
from vitascope.generate.cost import cost
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampling import MODES, Sampling, of_pipeline
from vitascope.generate.request import Request
from vitascope.model.formats.adapters import identity, layer_shapes, levels_of, read_adapter
from vitascope.model.formats.card import CARD, WEIGHTS, ModelCard, load_card
from vitascope.model.formats.check import check_model, check_parts, rebased, relocated
from vitascope.model.formats.load import load_model
from vitascope.model.formats.pipeline import EXPERTS, INDEX, is_pipeline, open_expert, open_pipeline
from vitascope.model.lora import Pair, PerSegment
from vitascope.model.network import Network
from vitascope.model.networks import cost_of, filled, shapes_of
from vitascope.prompts import upsample
from vitascope.records import stable_id
from vitascope.train.settings import ALL_LEVELS


class Maker(NamedTuple):
    """The model that makes an output: its folder, a hash of its content, its step, and its latents."""

    folder: str
    identity: str
    step: int
    latents: str


class Adapter(NamedTuple):
    """An adapter that makes an output: its name, its weight, its locations, and a hash of its content."""

    name: str
    weight: float
    locations: tuple[str, ...]
    identity: str


@dataclass(frozen=True)
class Target:
    """The location of an output, without suffix, and what makes it (for the sidecar)."""

    location: str
    model: Maker
    adapter: Adapter | None = None


@dataclass(frozen=True)
class Opened:
    """A model whose files have been checked; its weights are not loaded.

    adapters: the locations of each adapter, by its name. adapted: its identity, by its name.
    prompts: `upsample.identity` of what rewrites prompts.
    """

    card: ModelCard
    maker: Maker
    sampling: Sampling
    adapters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    adapted: Mapping[str, str] = field(default_factory=dict)
    prompts: str = ""

    @property
    def n_experts(self) -> int:
        """The number of its networks, all of one size."""
        return 1 if self.sampling.boundary is None else len(EXPERTS)

    @property
    def n_parameters(self) -> int:
        """Those of all networks."""
        card = self.card
        return self.n_experts * sum(map(prod, shapes_of(card.model, card.channels, card.text_dim).values()))

    def target(self, folder: str, request: Request) -> Target:
        """The output of a request in `folder`: made by the model, with the adapter that it asks for."""
        identity, adapter = self.maker.identity, None
        if (name := request.adapter) is not None:
            adapter = Adapter(name, request.adapter_weight, self.adapters[name], self.adapted[name])
            identity = stable_id(identity, adapter.identity)
        if self.prompts:
            identity = stable_id(identity, self.prompts)
        return Target(storage.join(folder, request.name(identity)), self.maker, adapter)

    def cost(self, request: Request) -> float:
        """The work of denoising a request (`cost.cost`)."""
        card = self.card
        return cost(request, card.patching, self.sampling, cost_of(card.model, *self._dims))

    def load(self, device: str, *, invariant: bool = False) -> Experts:
        """Its networks on a device: float32 on a CPU, bfloat16 on a GPU that has it."""
        networks = self._networks(device)
        cost = cost_of(self.card.model, *self._dims)
        squared = cost.per_token_squared / cost.per_token
        if not self.adapters:
            return Experts(networks, device, squared=squared, invariant=invariant)
        read = {name: self.read_adapters(name) for name in self.adapters}
        each = [{name: pairs[i] for name, pairs in read.items()} for i in range(self.n_experts)]
        return Experts(networks, device, list(map(PerSegment, networks, each)), squared, invariant)

    def with_adapters(self, adapters: Mapping[str, tuple[str, ...]]) -> "Opened":
        """The model with these adapters, instead of any others; raises as `read_adapters`."""
        found = replace(self, adapters=adapters)
        return replace(found, adapted={name: identity(found.read_adapters(name)) for name in adapters})

    def read_adapters(self, name: str) -> list[dict[str, Pair]]:
        """The adapter of this name for each network; one that a run trained for one of two is for that alone.

        Raises:
            Missing, Mistake: there is none, it is damaged or made for another network, or there are too many.
        """
        places, layers = self.adapters[name], layer_shapes(self.card.model, *self._dims)
        if len(places) not in (1, self.n_experts):
            raise Mistake(
                f"generate.adapters.{name} names {len(places)} places, and the model has {self.n_experts} "
                f"network{'s' * (self.n_experts > 1)}; name one, or one for each"
            )
        found: list[dict[str, Pair]] = [{} for _ in range(self.n_experts)]
        for position, place in enumerate(places):
            made_for = self._made_for(place)
            if len(places) > 1 and made_for == [1 - position]:
                raise Mistake(
                    f"generate.adapters.{name}: {place} was trained for expert {made_for[0] + 1}, and is in "
                    f"position {position + 1} of the list; put it in the other one"
                )
            pairs = read_adapter(place, layers)
            for expert in [position] if len(places) > 1 else made_for:
                found[expert] = pairs
        return found

    def _made_for(self, place: str) -> list[int]:
        """The experts that an adapter is for: all, unless a run trained it for one of two."""
        low, high = levels_of(place)
        boundary = self.sampling.boundary
        if boundary is None or (low, high) == ALL_LEVELS:
            return list(range(self.n_experts))
        return [1 if high <= boundary else 0]

    @property
    def _dims(self) -> tuple[int, int]:
        return self.card.channels, self.card.text_dim

    def _networks(self, device: str) -> list[Network]:
        if self.sampling.n_train is None:
            return [load_model(self.maker.folder, device, self.card)[0]]
        return [
            filled(self.card.model, self._dims, self._weights(name), torch.device(device))
            for name in EXPERTS[: self.n_experts]
        ]

    def _weights(self, name: str) -> Iterator[tuple[str, Tensor]]:
        yield from open_expert(self.maker.folder, name).weights.items()


def opened(settings: Settings) -> Opened:
    """The model that the settings name.

    The identity of one of ours is derived from card and checksum, that of a pipeline from its content.

    Raises:
        Missing, Mistake: there is none, it is damaged or inconsistent, or it cannot do what the settings ask
            for.
    """
    folder = storage.absolute(settings.generate.model or settings.path("model"))
    if storage.exists(storage.join(folder, CARD)):
        found = _own(folder, settings)
    elif is_pipeline(folder):
        found = _pipeline(folder, settings)
    else:
        raise Missing(
            f"no model at {folder}: expected {CARD} of a trained one, or {INDEX} of a published pipeline; "
            "train one first, or set generate.model"
        )
    if settings.generate.guidance_2 is not None and found.sampling.boundary is None:
        raise Mistake(
            f"generate.guidance_2 is for models with two experts, and {folder} has one network for all noise "
            "levels; leave it out"
        )
    found = replace(found, prompts=upsample.identity(settings.prompts))
    return found.with_adapters(settings.generate.adapters)


def _pipeline(folder: str, settings: Settings) -> Opened:
    pipeline = open_pipeline(folder, settings.encode)
    sampling = of_pipeline(pipeline, settings.generate)
    check_parts(folder, pipeline.card)
    card = pipeline.card.model_copy(update={"timestep_shift": sampling.shift})
    return Opened(card, Maker(folder, pipeline.identity, card.step, card.fingerprint), sampling)


def _own(folder: str, settings: Settings) -> Opened:
    card = load_card(folder)
    recorded = card.model_dump_json(exclude_unset=True)  # later releases know more fields
    if card.expert != ALL_LEVELS:
        low, high = card.expert
        raise Mistake(
            f"the model in {folder} is one of two experts, for noise levels {low:g} to {high:g}; write it "
            "into its pipeline with `vitascope export`, and set generate.model to the result"
        )
    card = rebased(folder, relocated(folder, card, settings.encode), settings.model.start_from)
    check_model(folder, card)
    maker = stable_id(recorded, checksum.recorded(storage.join(folder, WEIGHTS)))
    buckets, counts = card.encode.buckets, card.encode.frame_counts
    most_frames = max(n_frames for n_frames, _, _ in buckets) if buckets else counts[-1]
    sampling = Sampling(modes=MODES[card.conditioning_frames], most_frames=most_frames)
    return Opened(card, Maker(folder, maker, card.step, card.fingerprint), sampling)
