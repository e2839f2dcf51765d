"""Run many requests through shared forward passes."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from vitascope.feed.packs import Pack, collate
from vitascope.generate import sampler, scheduler
from vitascope.generate.sampler import Work
from vitascope.ledger import Reason, Rejected
from vitascope.observe.metrics import Publisher


@dataclass(eq=False)
class _Entry:
    """A request in the engine, and whom to tell."""

    work: Work
    future: "Future[Work]"


class Denoiser:
    """Continuous batching: a pass holds every running request, each at its own step.

    A finished request leaves and waiting ones join at the next pass, as `scheduler.admit` says. One
    background thread runs the passes; `submit` may be called from any thread.
    """

    def __init__(
        self,
        model: Callable[[Pack], Tensor],
        *,
        token_budget: int,
        device: str = "cpu",
        publisher: Publisher | None = None,
    ) -> None:
        """Publishes its queue and its passes through `publisher`, where there is one."""
        self._model = model
        self._budget = token_budget
        self._device = device
        self._publisher = publisher
        self._waiting: deque[_Entry] = deque()
        self._running: list[_Entry] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="denoiser", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> "Future[Work]":
        """Queues `work`; the future gives it with all its steps done.

        The future raises Rejected (GENERATION_FAILED) where a pass fails or the result is not finite.

        Raises:
            Rejected: TOO_MANY_TOKENS where no pass could hold it.
        """
        scheduler.check(work.load, self._budget)
        future: Future[Work] = Future()
        with self._wake:
            if self._closed:
                raise RuntimeError("the denoiser is closed")
            self._waiting.append(_Entry(work, future))
            self._wake.notify()
        return future

    def close(self) -> None:
        """Lets the current pass end, stops the thread and cancels what is not finished."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        for entry in [*self._running, *self._waiting]:
            _fail([entry], "the denoiser was closed")

    def _loop(self) -> None:
        while self._gather():
            try:
                self._pass()
            except Exception as error:  # whatever a model raises must reach its requests, and stop no other
                _fail(self._running, f"a forward pass failed: {type(error).__name__}: {error}")
                self._running = []

    def _gather(self) -> bool:
        """Waits for work and lets in who fits; False when closed."""
        with self._wake:
            self._publish_queue()
            while not (self._running or self._waiting or self._closed):
                self._wake.wait()
            running, waiting = ([e.work.load for e in group] for group in (self._running, self._waiting))
            joined = set(scheduler.admit(running, waiting, self._budget))
            queue = list(self._waiting)
            self._waiting = deque(e for i, e in enumerate(queue) if i not in joined)
            self._running += [
                queue[i] for i in sorted(joined) if queue[i].future.set_running_or_notify_cancel()
            ]
            self._publish_queue()
            return not self._closed

    @torch.inference_mode()
    def _pass(self) -> None:
        if not self._running:
            return
        started = time.perf_counter()
        groups = [sampler.segments(entry.work) for entry in self._running]
        pack = collate([segment for group in groups for segment in group]).to(self._device)
        velocities = iter(pack.split(self._model(pack)))
        for entry, group in zip(self._running, groups, strict=True):
            entry.work = sampler.advance(entry.work, [next(velocities) for _ in group])
        done = [entry for entry in self._running if entry.work.load.n_passes == 0]
        self._running = [entry for entry in self._running if entry.work.load.n_passes > 0]
        for entry in done:
            if entry.work.is_finite():
                entry.future.set_result(entry.work)
            else:
                _fail(
                    [entry],
                    "the result holds values that are not finite; lower the guidance, or check the model",
                )
        self._publish_pass(pack.tokens.shape[0], time.perf_counter() - started)

    def _publish_queue(self) -> None:
        if self._publisher:
            self._publisher.set("generate_waiting", len(self._waiting))
            self._publisher.set("generate_running", len(self._running))

    def _publish_pass(self, n_tokens: int, seconds: float) -> None:
        if self._publisher:
            self._publisher.add("generate_passes")
            self._publisher.add("generate_pass_s", seconds)
            self._publisher.add("generate_pass_tokens", n_tokens)
            self._publisher.add("generate_pass_budget", self._budget)


def _fail(entries: Iterable[_Entry], detail: str) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(Rejected(Reason.GENERATION_FAILED, detail))
