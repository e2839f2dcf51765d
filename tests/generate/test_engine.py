"""Requests that share passes: same results, come and go, fail alone."""

import asyncio
import copy
import dataclasses
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait

import pytest
import torch

from vitascope.feed.packs import Pack
from vitascope.generate.denoise.divide import Broken
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.pace import Pace
from vitascope.generate.denoise.sampler import Work, advance, segments
from vitascope.ledger import Reason, Rejected
from vitascope.model.dit import DiT


class Recorder:
    """A model that remembers how many segments each pass held, and may be made to wait or fail."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.velocity: Callable[[Pack], torch.Tensor] = lambda pack: torch.zeros_like(pack.tokens)

    def __call__(self, pack: Pack) -> torch.Tensor:
        self.entered.set()
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
    assert recorder.entered.wait(60)
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
    assert recorder.entered.wait(60)
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
    """The expert is the one that the oldest needs; those that need another one wait until they lead."""
    high, low = Recorder(), Recorder()
    high.gate.clear()
    denoiser = Denoiser(Experts([high, low]), token_budget=10_000)
    futures = []
    for steps, n_high in ((4, 2), (3, 3), (4, 1), (2, 0)):
        work = work_of(steps=steps, guidance=1)
        experts = (0,) * n_high + (1,) * (steps - n_high)
        schedule = dataclasses.replace(work.schedule, experts=experts)
        futures.append(denoiser.submit(dataclasses.replace(work, schedule=schedule)))
        assert high.entered.wait(60)  # the first one is alone in its first pass
    high.gate.set()
    assert all(future.result(60).load.n_passes == 0 for future in futures)
    denoiser.close()
    # After the first pass: 0 and 1 and 2 high; 0 and 2 and 3 low, twice; 1 high, twice; 2 low.
    assert high.passes == [1, 3, 1, 1]
    assert low.passes == [3, 3, 1]


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


def network_with(
    culprit: str, model: DiT, bad: Callable[[Pack], torch.Tensor], *, transient: bool
) -> Callable[[Pack], torch.Tensor]:
    """The model, whose passes fail as `culprit` says if `bad` marks a token; each pass once if transient."""
    seen: set[float] = set()

    def network(pack: Pack) -> torch.Tensor:
        mark = float(pack.tokens.double().sum())
        if transient and mark not in seen:
            seen.add(mark)
            raise RuntimeError("something passing")
        tokens = bad(pack)
        if culprit == "not finite":
            return torch.where(tokens[:, None], torch.nan, model(pack))
        if tokens.any():
            if culprit == "shape":
                return pack.tokens @ torch.zeros(3, 3)
            raise MemoryError("no room") if culprit == "memory" else KeyError("an adapter")
        return model(pack)

    return network


@pytest.fixture(scope="module")
def alone() -> dict[int, torch.Tensor]:
    """Filled by `undisturbed`, for all tests."""
    return {}


def undisturbed(seed: int, work: Work, model: DiT, alone: dict[int, torch.Tensor]) -> torch.Tensor:
    """The tokens of a request at its end that had every pass for itself."""
    if seed not in alone:
        while work.load.n_passes:
            with torch.inference_mode():
                work = advance(work, Experts([model]).velocities([work])[0])
        alone[seed] = work.tokens
    return alone[seed]


@pytest.mark.parametrize("culprit", ["shape", "memory", "not finite", "adapter", "none"])
@pytest.mark.parametrize("around", ["one", "two", "two experts", "transient"])
def test_culprits_alone_are_refused_and_others_end_as_undisturbed(
    model: DiT, work_of: Callable[..., Work], alone: dict[int, torch.Tensor], culprit: str, around: str
) -> None:
    """Culprits are pictures; the other requests have other sizes, steps and guidance."""
    any_bad = culprit != "none"
    network = network_with(
        culprit, model, lambda pack: only(pack, 1) & any_bad, transient=around == "transient"
    )
    denoiser = Denoiser(Experts([network, network]), token_budget=10_000)
    requests = [
        {"seed": i, "steps": 2 + i % 2, "text": 1 + i, "guidance": 1 + i % 2, "width": 32} for i in range(4)
    ]
    works = [work_of(**fields) for fields in requests]
    bad = [work_of(seed=9 + i, seconds=0, steps=3, width=32) for i in range(1 + (around == "two"))]
    if around == "two experts":
        works, bad = ([in_two(work) for work in group] for group in (works, bad))
    futures = [denoiser.submit(work) for work in (*works[:2], bad[0], *works[2:], *bad[1:])]
    culprits = [futures.pop(2), *futures[4:]]
    for i, future in enumerate(futures[:4]):
        expected = undisturbed(i, works[i], model, alone)
        torch.testing.assert_close(future.result(60).tokens, expected, atol=1e-5, rtol=1e-5)
    said = {
        "shape": "alone: RuntimeError",
        "memory": "no room",
        "not finite": "finite",
        "adapter": "an adapter",
    }
    for future in culprits:
        if culprit == "none":
            assert future.result(60).is_finite()
            continue
        with pytest.raises(Rejected, match=said[culprit]) as failed:
            future.result(60)
        assert failed.value.reason == Reason.GENERATION_FAILED
    assert denoiser._room.n_tokens == 10_000  # of a culprit alone, not of a pass that was too large
    denoiser.close()


def in_two(work: Work) -> Work:
    """The same work, of whose steps the last needs the second expert."""
    experts = (*(0 for _ in work.schedule.experts[1:]), 1)
    return dataclasses.replace(work, schedule=dataclasses.replace(work.schedule, experts=experts))


def test_a_request_may_be_cancelled_at_any_time(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    recorder.gate.clear()
    first = denoiser.submit(work_of(steps=5, guidance=1))
    assert recorder.entered.wait(60)
    waiting = [denoiser.submit(work_of(steps=3, guidance=1)) for _ in range(3)]
    assert first.cancel()  # during its first pass
    assert waiting[1].cancel()  # before it
    assert wait([first, waiting[1]], timeout=1).not_done == set()
    recorder.gate.set()
    assert [future.result(60).step for future in (waiting[0], waiting[2])] == [3, 3]
    assert recorder.passes == [1, 2, 2, 2]
    assert not waiting[0].cancel()  # it is done


def test_a_cancelled_asyncio_task_cancels_the_request(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    async def main() -> None:
        future = denoiser.submit(work_of(steps=1000))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), 0.2)
        assert future.cancelled()

    asyncio.run(main())
    n_passes = len(recorder.passes)
    assert denoiser.submit(work_of(steps=2, guidance=1)).result(60).step == 2
    assert recorder.passes[n_passes + 1 :] in ([1], [1, 1])  # those of the last request alone


def test_requests_that_come_and_go_at_random_all_end(
    denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    rng = random.Random(1)
    works = [work_of(steps=rng.randrange(1, 6), guidance=1, height=16) for _ in range(200)]
    futures = []
    for work in works:
        futures.append(denoiser.submit(work, priority=rng.randrange(3)))
        if rng.random() < 0.3:
            rng.choice(futures).cancel()
    wait(futures, timeout=60)
    assert all(future.cancelled() or future.result().load.n_passes == 0 for future in futures)
    assert len(denoiser._queue) == denoiser._n_begun == 0


def test_a_higher_priority_goes_first(recorder: Recorder, work_of: Callable[..., Work]) -> None:
    denoiser = Denoiser(Experts([recorder]), token_budget=36)  # one at a time
    recorder.gate.clear()
    ended: list[str] = []
    for name, priority in (("first", 0), ("low", -1), ("high", 1)):
        future = denoiser.submit(work_of(steps=2, guidance=1), priority=priority)
        future.add_done_callback(lambda _, name=name: ended.append(name))
        assert recorder.entered.wait(60)
    recorder.gate.set()
    denoiser.submit(work_of(steps=1, guidance=1), priority=-2).result(60)
    denoiser.close()
    assert ended == ["high", "first", "low"]


def test_a_deadline_that_cannot_be_met_is_refused_with_what_is_known(
    recorder: Recorder, work_of: Callable[..., Work]
) -> None:
    pace = Pace([(36.0, 10.0)])  # no pass took less than 10 s
    denoiser = Denoiser(Experts([recorder]), token_budget=200, pace=pace)
    with pytest.raises(Rejected, match="its 5 passes take 50 s at least") as refused:
        denoiser.submit(work_of(steps=5, guidance=1), deadline_s=49)
    assert refused.value.reason == Reason.TOO_LATE
    assert denoiser.submit(work_of(steps=5, guidance=1), deadline_s=500).result(60).step == 5
    recorder.gate.clear()
    denoiser._pace = Pace()
    held = denoiser.submit(work_of(steps=2, guidance=1))
    late = denoiser.submit(work_of(steps=5, guidance=1), deadline_s=0.05)
    time.sleep(0.1)
    recorder.gate.set()
    with pytest.raises(Rejected, match="until its deadline"):
        late.result(60)
    assert held.result(60).step == 2
    denoiser.close()


def test_a_deadline_is_met_if_steps_without_a_pass_or_without_guidance_make_it_possible(
    recorder: Recorder, work_of: Callable[..., Work]
) -> None:
    pace = Pace([(1e9, 10.0)])  # a pass takes 10 s at least, whatever is in it
    denoiser = Denoiser(Experts([recorder]), token_budget=200, pace=pace)
    skipping = work_of(steps=8, guidance=1, quality="fast")
    assert (skipping.least, denoiser.least_s(skipping)) == ((2, 0), 20)
    with pytest.raises(Rejected, match="its 2 passes take 20 s at least"):
        denoiser.submit(skipping, deadline_s=19)
    assert denoiser.submit(skipping, deadline_s=21).result(60).step == 8
    denoiser.close()
    guided = work_of(steps=8, guidance=3, guidance_interval=[0.6, 1])
    n_guided = sum(level >= 0.6 for level in guided.schedule.levels[:-1])
    assert 0 < n_guided < 8
    assert guided.least == (8 - n_guided, n_guided)


def test_a_pass_that_never_ends_is_noticed(
    recorder: Recorder, denoiser: Denoiser, work_of: Callable[..., Work]
) -> None:
    denoiser.submit(work_of(steps=3, guidance=1)).result(60)
    assert denoiser.stalled_s() == 0
    denoiser.check_health()
    recorder.gate.clear()
    recorder.entered.clear()
    future = denoiser.submit(work_of(steps=3, guidance=1))
    assert recorder.entered.wait(60)
    denoiser.check_health()
    assert denoiser._passing is not None
    began, cost = denoiser._passing
    denoiser._passing = began - 100_000, cost
    assert denoiser.stalled_s() > 100_000
    with pytest.raises(Broken, match="should have taken"):
        denoiser.check_health()
    recorder.gate.set()
    assert future.result(60).step == 3
    denoiser.check_health()


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
