"""Saved states: what was saved goes on to the bit, what does not fit is ignored, the disk ends up clean."""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vitascope import storage
from vitascope.feed.packs import Pack
from vitascope.generate.denoise import sampler, states
from vitascope.generate.denoise.divide import Broken
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work
from vitascope.generate.denoise.states import Saver, Slot
from vitascope.ledger import Rejected
from vitascope.model.dit import DiT

Make = Callable[..., Work]


def advanced(work: Work, model: DiT, n_steps: int) -> Work:
    for _ in range(n_steps):
        with torch.inference_mode():
            work = sampler.advance(work, Experts([model]).velocities([work])[0])
    return work


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_a_resumed_request_ends_as_an_undisturbed_one_to_the_bit(
    model: DiT, work_of: Make, tmp_path: Path, solver: str
) -> None:
    work = work_of(steps=5, solver=solver)
    at = states.slot(str(tmp_path / "a"), "me")
    storage.put(at.uri, states.content(advanced(work, model, 3), at.identity))
    again = states.resumed(work, at)
    assert again.step == 3
    assert torch.equal(advanced(again, model, 2).tokens, advanced(work, model, 5).tokens)


def test_progress_and_preview_are_in_the_state(model: DiT, work_of: Make, tmp_path: Path) -> None:
    output = str(tmp_path / "a")
    assert states.read(output) is None
    assert states.progress(output) is None
    work = advanced(work_of(steps=5, solver="unipc"), model, 3)
    storage.put(states.slot(output).uri, states.content(work, ""))
    assert states.progress(output) == (3, 5)
    state = states.read(output)
    assert state is not None
    assert work.past is not None
    assert (state.step, state.n_steps) == (3, 5)
    assert torch.equal(state.tokens, work.past.clean[0])  # what the solver last took for the clean video
    assert state.latent(2).shape == work.latent(2).shape


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "text", "another request", "another size"])
def test_a_state_that_does_not_fit_is_ignored_with_a_line_in_the_log(
    model: DiT, work_of: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    work = work_of(steps=5)
    at = Slot(str(tmp_path / "a.state"), "me")
    whole = states.content(advanced(work, model, 2), "other" if kind == "another request" else "me")
    flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    cases = {"cut": whole[:-9], "flipped": flipped, "empty": b"", "text": b"hello, this is no state at all"}
    storage.put(at.uri, cases.get(kind, whole))
    begun = work_of(steps=5, height=64) if kind == "another size" else work
    logging.getLogger("ray.serve").propagate = True
    with caplog.at_level(logging.WARNING, "ray.serve"):
        assert states.resumed(begun, at) is begun
    assert "is ignored" in caplog.text


class Slow:
    """A network that may be held at a pass."""

    def __init__(self) -> None:
        self.n_passes, self.gates = 0, [threading.Event() for _ in range(100)]

    def __call__(self, pack: Pack) -> torch.Tensor:
        self.gates[self.n_passes].wait(60)
        self.n_passes += 1
        return torch.ones_like(pack.tokens)

    def open(self, n_passes: int) -> None:
        """Lets this many passes run in all."""
        for gate in self.gates[:n_passes]:
            gate.set()


@pytest.fixture
def slow() -> Slow:
    return Slow()


def test_a_running_request_is_saved_and_its_state_is_deleted_at_its_end(
    slow: Slow, work_of: Make, tmp_path: Path
) -> None:
    denoiser = Denoiser(Experts([slow]), token_budget=1000, saver=Saver(0.01))
    output = str(tmp_path / "a")
    future = denoiser.submit(work_of(steps=9), at=states.slot(output, "me"))
    slow.open(4)
    wait_until(lambda: states.progress(output) == (4, 9))
    slow.open(99)
    assert future.result(60).load.n_passes == 0
    wait_until(lambda: not storage.exists(states.slot(output).uri))
    denoiser.close()
    assert list((tmp_path / ".running").iterdir()) == []


@pytest.mark.parametrize("how", ["cancelled", "refused", "closed", "lost"])
def test_the_state_of_a_request_stays_only_if_another_replica_is_to_go_on(
    slow: Slow, work_of: Make, tmp_path: Path, how: str
) -> None:
    denoiser = Denoiser(Experts([slow]), token_budget=1000, saver=Saver(0.01))
    output = str(tmp_path / "a")
    future = denoiser.submit(work_of(steps=50), at=states.slot(output, "me"))
    slow.open(3)
    wait_until(lambda: states.progress(output) == (3, 50))
    if how == "cancelled":
        assert future.cancel()
    if how == "closed":
        threading.Thread(target=denoiser.close).start()
        wait_until(lambda: denoiser._closed is not None)
    if how in ("refused", "lost"):
        error = RuntimeError("no") if how == "refused" else Broken("the device is lost")

        def failing(_: Pack) -> torch.Tensor:
            raise error

        denoiser._model = dataclasses.replace(denoiser._model, networks=[failing])
    slow.open(100)
    wait_until(future.done)
    denoiser.close()
    assert storage.exists(states.slot(output).uri) == (how in ("closed", "lost"))


def test_a_store_that_fails_delays_no_pass(
    slow: Slow, work_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, ended = threading.Event(), threading.Event()

    def put(_: str, __: bytes) -> None:
        hanging.set()
        assert ended.wait(60)
        raise OSError("the store is gone")

    monkeypatch.setattr(storage, "put", put)
    denoiser = Denoiser(Experts([slow]), token_budget=1000, saver=Saver(0.01))
    future = denoiser.submit(work_of(steps=40), at=states.slot(str(tmp_path / "a"), "me"))
    slow.open(2)
    assert hanging.wait(60)
    slow.open(100)
    assert future.result(60).load.n_passes == 0  # while the first state is still being written
    ended.set()
    denoiser.close()


def test_the_state_of_a_request_that_comes_back_too_late_is_deleted(
    model: DiT, work_of: Make, tmp_path: Path
) -> None:
    denoiser = Denoiser(Experts([model]), token_budget=1000, saver=Saver(0.01))
    work, at = work_of(steps=5), states.slot(str(tmp_path / "a"), "me")
    storage.put(at.uri, states.content(work, at.identity))
    with pytest.raises(Rejected, match="until its deadline"):
        denoiser.submit(work, deadline_s=-1, at=at)
    denoiser.close()
    assert not storage.exists(at.uri)
