"""A result does not depend on the company that its request keeps."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from synthetic import tiny_card
from vitascope.feed.packs import Pack
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work, advance, begin
from vitascope.generate.denoise.solvers import SOLVERS
from vitascope.generate.request import Request
from vitascope.model.formats.adapters import layer_shapes
from vitascope.model.formats.card import ModelCard
from vitascope.model.lora import Pair, PerSegment
from vitascope.model.network import Network
from vitascope.model.settings import ModelSettings

TOLERANCE = 1e-5
"""Of the largest value of a result, in float32."""
SETTINGS = {
    "dit": ModelSettings(depth=2, width=48, heads=2, patch=2),
    "wan": ModelSettings(network="wan", depth=2, width=36, heads=3, ffn=80, patch=2),
}
GRIDS = ((1, 2, 2), (1, 3, 5), (2, 4, 3), (3, 5, 4), (4, 3, 7))
"""4 to 84 patches."""


@dataclass(frozen=True)
class Asked:
    """What a random request asks for; `given` of its latent frames are conditioning frames."""

    seed: int
    grid: tuple[int, int, int]
    steps: int
    guidance: float
    interval: tuple[float, float]
    solver: str
    quality: str
    adapter: str | None
    n_text: int
    given: int
    after: int

    def work(self, card: ModelCard) -> Work:
        """The request before its first step."""
        t, h, w = self.grid
        generator = torch.Generator().manual_seed(self.seed)
        latent = torch.randn(t, 2 * h, 2 * w, card.channels, generator=generator)
        text = torch.randn(self.n_text, card.text_dim, generator=generator)
        request = Request.model_validate(
            {"custom_id": "a", "prompt": "a", "width": 64, "height": 64, "seconds": 1, "seed": self.seed}
            | {"steps": self.steps, "guidance": self.guidance, "guidance_interval": self.interval}
            | {"solver": self.solver, "quality": self.quality, "adapter": self.adapter}
            | {"adapter_weight": 0.7 if self.adapter else 1.0}
        )
        canvas = Canvas(latent, torch.arange(t) < min(self.given, t - 1))
        return begin(request, canvas, (text, torch.zeros(0, card.text_dim)), card=card)


ASKED = st.builds(
    Asked,
    seed=st.integers(0, 10**6),
    grid=st.sampled_from(GRIDS),
    steps=st.integers(3, 9),
    guidance=st.sampled_from([1.0, 3.0]),
    interval=st.sampled_from([(0.0, 1.0), (0.3, 1.0), (0.0, 0.9), (0.1, 0.8)]),
    solver=st.sampled_from(sorted(SOLVERS)),
    quality=st.sampled_from(["exact", "high", "fast"]),
    adapter=st.sampled_from([None, "one", "two"]),
    n_text=st.integers(0, 5),
    given=st.integers(0, 2),
    after=st.integers(0, 6),
)


@dataclass
class Arriving:
    """A network; each request arrives when so many passes have begun, from within the pass."""

    network: Network
    waiting: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    n_passes: int = 0

    def __call__(self, pack: Pack) -> torch.Tensor:
        self.n_passes += 1
        self.arrive(self.n_passes)
        return self.network(pack)

    def arrive(self, n_passes: float) -> None:
        """Submits those whose time has come."""
        due = [submit for after, submit in self.waiting if after <= n_passes]
        self.waiting = [(after, submit) for after, submit in self.waiting if after > n_passes]
        for submit in due:
            submit()


@dataclass
class Model:
    """A network of random weights with two adapters, in which a request can be alone or among others."""

    card: ModelCard
    experts: Experts
    arriving: Arriving

    @classmethod
    def of(cls, network: str, *, invariant: bool) -> "Model":
        torch.manual_seed(0)
        card = tiny_card().model_copy(update={"model": SETTINGS[network]})
        model = card.build().eval()
        for weights in model.parameters():
            torch.nn.init.normal_(weights, std=0.1)
        layers = layer_shapes(card.model, card.channels, card.text_dim)
        adapters = {
            name: {
                layer: Pair(torch.randn(2, n_in) / n_in**0.5, torch.randn(n_out, 2) / 4, scale=0.5)
                for layer, (n_out, n_in) in layers.items()
            }
            for name in ("one", "two")
        }
        arriving = Arriving(model)
        return cls(
            card, Experts([arriving], adapters=[PerSegment(model, adapters)], invariant=invariant), arriving
        )

    @torch.inference_mode()
    def alone(self, work: Work) -> torch.Tensor:
        """The final tokens, without an engine."""
        while work.load.n_passes:
            work = advance(work, self.experts.velocities([work])[0])
        return work.tokens

    def together(self, asked: Sequence[Asked], works: Sequence[Work], budget: int) -> list[torch.Tensor]:
        """The final tokens of requests that share an engine's passes."""
        denoiser = Denoiser(self.experts, token_budget=budget)
        futures: dict[int, Future[Work]] = {}

        def submit(i: int) -> Callable[[], None]:
            return lambda: futures.update({i: denoiser.submit(works[i])})

        self.arriving.n_passes = 0
        self.arriving.waiting = [(each.after, submit(i)) for i, each in enumerate(asked)]
        try:
            self.arriving.arrive(0)
            for future in list(futures.values()):
                future.result(60)
            self.arriving.arrive(float("inf"))  # those for whom there were too few passes
            return [futures[i].result(60).tokens for i in range(len(asked))]
        finally:
            denoiser.close()


def is_same(found: torch.Tensor, alone: torch.Tensor, *, to_the_bit: bool) -> bool:
    if to_the_bit:
        return torch.equal(found, alone)
    return bool((found - alone).abs().max() <= TOLERANCE * alone.abs().max())


def check(network: str, *, invariant: bool, n: int) -> None:
    """Random requests, in random order, with a random budget, in `n` cases."""
    model = Model.of(network, invariant=invariant)

    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.generate],
    )
    @seed(20)
    @given(asked=st.lists(ASKED, min_size=2, max_size=6), room=st.floats(0, 1))
    def run(asked: list[Asked], room: float) -> None:
        works = [each.work(model.card) for each in asked]
        loads = [work.load.n_tokens for work in works]
        budget = int(max(loads) + room * (sum(loads) - max(loads)))
        expected = [model.alone(work) for work in works]
        for found, alone in zip(model.together(asked, works, budget), expected, strict=True):
            assert is_same(found, alone, to_the_bit=invariant)

    run()


@pytest.mark.parametrize("network", SETTINGS)
@pytest.mark.parametrize("invariant", [False, True])
def test_a_result_is_that_of_the_request_alone(network: str, invariant: bool) -> None:
    check(network, invariant=invariant, n=12)


@pytest.mark.nightly
@pytest.mark.parametrize("network", SETTINGS)
@pytest.mark.parametrize("invariant", [False, True])
def test_so_it_is_in_many_companies(network: str, invariant: bool) -> None:
    check(network, invariant=invariant, n=300)


@pytest.mark.parametrize("invariant", [False, True])
def test_a_pass_holds_every_solver_guidance_mode_quality_and_adapter_at_once(invariant: bool) -> None:
    kinds = [
        Asked(1, GRIDS[4], 5, 3.0, (0.0, 1.0), "euler", "exact", None, 3, 0, 0),
        Asked(2, GRIDS[3], 8, 3.0, (0.3, 1.0), "unipc", "fast", "one", 1, 1, 0),
        Asked(3, GRIDS[1], 4, 1.0, (0.0, 1.0), "dpmpp_2m", "exact", "two", 5, 0, 0),
        Asked(4, GRIDS[2], 6, 2.0, (0.0, 0.9), "unipc", "high", None, 0, 1, 1),
        Asked(5, GRIDS[0], 7, 1.0, (0.0, 1.0), "dpmpp_2m", "high", "one", 2, 0, 2),
    ]
    model = Model.of("dit", invariant=invariant)
    works = [each.work(model.card) for each in kinds]
    expected = [model.alone(work) for work in works]
    found = model.together(kinds, works, 10_000)
    for one, alone in zip(found, expected, strict=True):
        assert (
            torch.equal(one, alone)
            if invariant
            else (one - alone).abs().max() <= TOLERANCE * alone.abs().max()
        )
        assert alone.std() > 0.1
    if not invariant:
        assert model.arriving.n_passes <= 10, "they shared passes"
