"""Requests that share passes: same results, come and go, fail alone."""

import copy
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from vitascope.feed.packs import Pack
from vitascope.generate.conditions import blank
from vitascope.generate.engine import Denoiser
from vitascope.generate.request import Request
from vitascope.generate.sampler import Work, begin
from vitascope.ledger import Reason, Rejected
from vitascope.model.card import ModelCard
from vitascope.model.dit import DiT

Make = Callable[..., Request]


@pytest.fixture
def work_of(card: ModelCard, request_of: Make) -> Callable[..., Work]:
    def make(*, text: int = 3, device: str = "cpu", **fields: object) -> Work:
        request = request_of(**fields)
        generator = torch.Generator().manual_seed(text)
        states = torch.randn(text, card.text_dim, generator=generator), torch.zeros(0, card.text_dim)
        return begin(request, blank(request, 2, card.channels), states, card=card, device=device)

    return make


class Recorder:
    """A model that remembers how many segments each pass held, and may be made to wait or fail."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.velocity: Callable[[Pack], torch.Tensor] = lambda pack: torch.zeros_like(pack.tokens)

    def __call__(self, pack: Pack) -> torch.Tensor:
        self.gate.wait(120)
        self.passes.append(pack.n_segments)
        return self.velocity(pack)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def denoiser(recorder: Recorder) -> Iterator[Denoiser]:
    denoiser = Denoiser(recorder, token_budget=200)
    yield denoiser
    denoiser.close()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_result_is_the_same_alone_and_among_others(
    model: DiT, work_of: Callable[..., Work], device: str
) -> None:
    requests = [
        {"seed": 1, "steps": 6},
        {"seed": 2, "steps": 3, "width": 96, "text": 9},
        {"seed": 3, "steps": 5, "seconds": 0, "guidance": 1},
        {"seed": 4, "steps": 4, "height": 80, "text": 1},
    ]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    denoiser = Denoiser(
        copy.deepcopy(model).to(device=device, dtype=dtype), token_budget=10_000, device=device
    )
    alone = [denoiser.submit(work_of(device=device, **fields)).result(60) for fields in requests]
    futures = [denoiser.submit(work_of(device=device, **fields)) for fields in requests]
    mixed = [future.result(60) for future in futures]
    denoiser.close()
    for one, same in zip(mixed, alone, strict=True):
        # Matrix products over more rows may add up in another order: a few parts in 10^6 each step in
        # float32 (1e-5 seen), in 10^3 in bfloat16.
        tolerance = 1e-4 if device == "cpu" else 5e-2
        torch.testing.assert_close(one.tokens, same.tokens, atol=tolerance, rtol=tolerance)
        assert one.tokens.std() > 0.1


def test_a_finished_one_leaves_and_a_waiting_one_joins(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    recorder.gate.clear()
    first = denoiser.submit(work_of(steps=2, guidance=1))  # 36 patches
    while not first.running():
        time.sleep(0.001)
    long = denoiser.submit(work_of(steps=4, guidance=4))  # 72
    late = denoiser.submit(work_of(steps=1, guidance=4, width=96))  # 108: fits when the first has left
    recorder.gate.set()
    for future in (first, long, late):
        assert future.result(120).load.n_passes == 0
    assert recorder.passes == [1, 3, 4, 2, 2]


def test_what_no_pass_holds_is_refused(denoiser: Denoiser, work_of: Callable[..., Work]) -> None:
    with pytest.raises(Rejected) as refused:
        denoiser.submit(work_of(seconds=4))
    assert refused.value.reason == Reason.TOO_MANY_TOKENS


def test_a_result_that_is_not_finite_fails_alone(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    poisoned = work_of(steps=3, guidance=1, seconds=0)  # the only segment of one frame

    def velocity(pack: Pack) -> torch.Tensor:
        bad = pack.grids[:, 0] == 1
        return torch.where(bad[pack.segment_of_token][:, None], torch.nan, torch.zeros_like(pack.tokens))

    recorder.velocity = velocity
    futures = denoiser.submit(poisoned), denoiser.submit(work_of(steps=3, guidance=1))
    with pytest.raises(Rejected, match="not finite") as failed:
        futures[0].result(120)
    assert failed.value.reason == Reason.GENERATION_FAILED
    assert futures[1].result(120).is_finite()


def test_a_pass_that_raises_fails_its_requests_and_the_next_one_goes_on(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    def velocity(_: Pack) -> torch.Tensor:
        raise MemoryError("no room")

    working, recorder.velocity = recorder.velocity, velocity
    with pytest.raises(Rejected, match="MemoryError: no room"):
        denoiser.submit(work_of()).result(120)
    recorder.velocity = working
    assert denoiser.submit(work_of()).result(120).is_finite()


def test_closing_tells_those_who_wait(recorder: Recorder, work_of: Callable[..., Work]) -> None:
    denoiser = Denoiser(recorder, token_budget=80)
    futures = [denoiser.submit(work_of(steps=1000)) for _ in range(2)]
    denoiser.close()
    for future in futures:
        with pytest.raises(Rejected, match="closed"):
            future.result(1)
    with pytest.raises(RuntimeError, match="closed"):
        denoiser.submit(work_of())
