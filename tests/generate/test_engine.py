"""Requests that share passes: same results, come and go, fail alone."""

import copy
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from vitascope.feed.packs import Pack
from vitascope.generate.conditions import blank
from vitascope.generate.denoise.divide import Broken
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work, begin, segments
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected
from vitascope.model.dit import DiT
from vitascope.model.formats.card import ModelCard

Make = Callable[..., Request]


@pytest.fixture
def work_of(card: ModelCard, request_of: Make) -> Callable[..., Work]:
    def make(*, text: int = 3, device: str = "cpu", **fields: object) -> Work:
        request = request_of(**fields)
        generator = torch.Generator().manual_seed(text)
        states = torch.randn(text, card.text_dim, generator=generator), torch.zeros(0, card.text_dim)
        return begin(request, blank(request, card.patching, card.channels), states, card=card, device=device)

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
    denoiser = Denoiser(Experts([recorder]), token_budget=200)
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
    network = copy.deepcopy(model).to(device=device, dtype=dtype)
    denoiser = Denoiser(Experts([network], device), token_budget=10_000)
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


def test_the_time_of_a_pass_is_divided_by_patches(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    def slow(pack: Pack) -> torch.Tensor:
        time.sleep(0.05)
        return torch.zeros_like(pack.tokens)

    recorder.velocity = slow
    recorder.gate.clear()
    first = denoiser.submit(work_of(steps=1, guidance=1))
    while not first.running():
        time.sleep(0.001)
    together = [denoiser.submit(work_of(steps=2, guidance=scale)) for scale in (1, 4)]  # 36 and 72 patches
    recorder.gate.set()
    alone, small, large = (future.result(120).device_s for future in (first, *together))
    assert recorder.passes == [1, 3, 3]
    assert alone >= 0.05
    assert small + large >= 0.1
    assert large == pytest.approx(2 * small)


def test_what_no_pass_holds_is_refused(denoiser: Denoiser, work_of: Callable[..., Work]) -> None:
    with pytest.raises(Rejected) as refused:
        denoiser.submit(work_of(seconds=4))
    assert refused.value.reason == Reason.TOO_MANY_TOKENS


def test_a_pass_holds_requests_of_one_expert_only(work_of: Callable[..., Work]) -> None:
    """Each at its own step; a round has a pass for each expert that one of the requests needs."""
    high, low = Recorder(), Recorder()
    high.gate.clear()
    denoiser = Denoiser(Experts([high, low]), token_budget=10_000)
    futures = []
    for steps, n_high in ((4, 2), (3, 3), (4, 1), (2, 0)):
        work = work_of(steps=steps, guidance=1)
        experts = (0,) * n_high + (1,) * (steps - n_high)
        schedule = dataclasses.replace(work.schedule, experts=experts)
        futures.append(denoiser.submit(dataclasses.replace(work, schedule=schedule)))
        while steps == 4 and not futures[0].running():
            time.sleep(0.001)  # the first one is alone in its first pass
    high.gate.set()
    assert all(future.result(60).load.n_passes == 0 for future in futures)
    denoiser.close()
    # After the first pass: 0 and 1 and 2 high, 3 low; 1 high, 0 and 2 and 3 low; 1 high, 0 and 2 low; 2 low.
    assert high.passes == [1, 3, 1, 1]
    assert low.passes == [1, 3, 2, 1]


def test_a_request_takes_the_room_of_its_guided_passes_from_the_beginning(
    work_of: Callable[..., Work],
) -> None:
    work = work_of(steps=4, guidance=1)
    schedule = dataclasses.replace(work.schedule, experts=(0, 0, 1, 1))
    guided_later = dataclasses.replace(work, schedule=schedule, guidance=(1.0, 3.0))
    assert guided_later.load.n_tokens == 2 * work.load.n_tokens
    assert len(segments(guided_later)) == 1
    assert len(segments(dataclasses.replace(guided_later, step=2))) == 2
    guided_first = dataclasses.replace(work, schedule=schedule, guidance=(3.0, 1.0), step=2)
    assert guided_first.load.n_tokens == work.load.n_tokens


def only(pack: Pack, n_frames: int) -> torch.Tensor:
    """(N,) bool, the tokens of segments with this many latent frames."""
    return (pack.grids[:, 0] == n_frames)[pack.segment_of_token]


def test_a_result_that_is_not_finite_fails_alone(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    poisoned = work_of(steps=3, guidance=1, seconds=0)  # the only segment of one frame
    recorder.velocity = lambda pack: torch.where(only(pack, 1)[:, None], torch.nan, 0 * pack.tokens)
    recorder.gate.clear()
    futures = denoiser.submit(poisoned), denoiser.submit(work_of(steps=3, guidance=1))
    recorder.gate.set()
    with pytest.raises(Rejected, match="no longer finite") as failed:
        futures[0].result(120)
    assert failed.value.reason == Reason.GENERATION_FAILED
    assert futures[1].result(120).is_finite()
    assert sum(recorder.passes) <= 2 + 1 + 3  # it is in one pass, and is tried alone once


def test_one_that_turns_a_whole_pass_not_finite_fails_alone(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    recorder.velocity = lambda pack: pack.tokens * (torch.nan if only(pack, 1).any() else 0.0)
    recorder.gate.clear()
    poisoned = denoiser.submit(work_of(steps=3, guidance=1, seconds=0))
    others = [denoiser.submit(work_of(steps=3, guidance=1)) for _ in range(3)]
    recorder.gate.set()
    with pytest.raises(Rejected, match="no longer finite"):
        poisoned.result(10)
    assert all(other.result(10).is_finite() for other in others)


@pytest.mark.parametrize("kind", ["always", "once", "never", "not finite", "memory"])
def test_others_get_what_they_would_have_got_beside_one_that_fails(
    model: DiT, work_of: Callable[..., Work], kind: str
) -> None:
    """The picture makes every pass fail that it is in; the third pass fails whoever is in it."""
    n_passes = 0

    def network(pack: Pack) -> torch.Tensor:
        nonlocal n_passes
        n_passes += 1
        picture = bool(only(pack, 1).any())
        if (kind == "always" and picture) or (kind == "once" and n_passes == 3):
            raise RuntimeError("an illegal shape")
        if kind == "memory" and pack.n_tokens > 200:
            raise MemoryError
        bad = only(pack, 1)[:, None] & (kind == "not finite")
        return torch.where(bad, torch.nan, model(pack))

    requests = [{"seed": i, "steps": 2 + i % 3, "text": 1 + i, "guidance": 1 + i % 2} for i in range(4)]
    denoiser = Denoiser(Experts([model]), token_budget=10_000)
    alone = [denoiser.submit(work_of(**fields)).result(60) for fields in requests]
    denoiser.close()
    denoiser = Denoiser(Experts([network]), token_budget=10_000)
    picture = denoiser.submit(work_of(seed=9, seconds=0, steps=3))
    futures = [denoiser.submit(work_of(**fields)) for fields in requests]
    for future, expected in zip(futures, alone, strict=True):
        torch.testing.assert_close(future.result(60).tokens, expected.tokens, atol=1e-4, rtol=1e-4)
    said = {"always": "alone: RuntimeError: an illegal shape", "not finite": "no longer finite"}
    if kind in said:
        with pytest.raises(Rejected, match=said[kind]) as failed:
            picture.result(60)
        assert failed.value.reason == Reason.GENERATION_FAILED
    else:
        assert picture.result(60).is_finite()
    denoiser.close()


def test_one_bad_request_costs_few_passes(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    def velocity(pack: Pack) -> torch.Tensor:
        if only(pack, 1).any():
            raise RuntimeError("no")
        return torch.zeros_like(pack.tokens)

    recorder.velocity = velocity
    recorder.gate.clear()
    works = [work_of(steps=2, guidance=1, seconds=0 if i == 5 else 9 / 8, height=16) for i in range(8)]
    futures = [denoiser.submit(work) for work in works]
    recorder.gate.set()
    assert [future.exception(10) is None for future in futures] == [i != 5 for i in range(8)]
    assert (
        len(recorder.passes) <= 2 * 3 + 3 + 3
    )  # of eight; and those without it, and the first, of whom it had


@pytest.mark.parametrize("kind", ["one always fails", "one pass fails"])
def test_of_forty_at_eight_a_pass_nobody_is_lost_for_another(
    recorder: Recorder, work_of: Callable[..., Work], kind: str
) -> None:
    def velocity(pack: Pack) -> torch.Tensor:
        if only(pack, 1).any() if kind == "one always fails" else len(recorder.passes) == 3:
            raise RuntimeError("no")
        return torch.zeros_like(pack.tokens)

    recorder.velocity = velocity
    denoiser = Denoiser(Experts([recorder]), token_budget=8 * 12)
    small = {"steps": 3, "guidance": 1, "height": 16}  # 12 patches
    futures = [denoiser.submit(work_of(**small, seconds=0 if i == 20 else 9 / 8)) for i in range(40)]
    failed = [i for i, future in enumerate(futures) if future.exception(30)]
    denoiser.close()
    assert failed == ([20] if kind == "one always fails" else [])


def test_a_pass_that_was_too_large_is_not_tried_at_every_step(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    def velocity(pack: Pack) -> torch.Tensor:
        if pack.n_segments > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
        return torch.zeros_like(pack.tokens)

    recorder.velocity = velocity
    recorder.gate.clear()
    futures = [denoiser.submit(work_of(steps=30, guidance=1)) for _ in range(4)]  # 36 patches each
    recorder.gate.set()
    assert all(future.result(10).is_finite() for future in futures)
    assert sum(n > 2 for n in recorder.passes) <= 2


def test_a_pass_that_raises_for_everyone_fails_its_requests_and_the_next_one_goes_on(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    def velocity(_: Pack) -> torch.Tensor:
        raise MemoryError("no room")

    working, recorder.velocity = recorder.velocity, velocity
    futures = [denoiser.submit(work_of()) for _ in range(3)]
    for future in futures:
        with pytest.raises(Rejected, match="MemoryError: no room"):
            future.result(120)
    recorder.velocity = working
    assert denoiser.submit(work_of()).result(120).is_finite()


def test_when_the_device_is_lost_nobody_waits_in_vain(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    def velocity(_: Pack) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    recorder.velocity = velocity
    monkeypatch.setattr(Denoiser, "_is_lost", lambda _: True)
    recorder.gate.clear()
    futures = [denoiser.submit(work_of()) for _ in range(3)]
    recorder.gate.set()
    for future in futures:
        with pytest.raises(Broken, match="the device is lost: CUDA error"):
            future.result(10)
    with pytest.raises(Broken, match="the device is lost"):
        denoiser.submit(work_of())


def test_closing_tells_those_who_wait(recorder: Recorder, work_of: Callable[..., Work]) -> None:
    denoiser = Denoiser(Experts([recorder]), token_budget=80)
    futures = [denoiser.submit(work_of(steps=1000)) for _ in range(2)]
    denoiser.close()
    for future in futures:
        with pytest.raises(Rejected, match="closed"):
            future.result(1)
    with pytest.raises(RuntimeError, match="closed"):
        denoiser.submit(work_of())
