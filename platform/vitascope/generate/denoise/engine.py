"""Runs many requests through shared forward passes."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from vitascope.generate.denoise import divide, sampler, scheduler
from vitascope.generate.denoise.divide import Broken, Failure
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work
from vitascope.ledger import Reason, Rejected
from vitascope.metrics import Publisher

_LOG = logging.getLogger("ray.serve")  # the replica's log


@dataclass(eq=False)
class _Entry:
    """A request in the engine, and its future."""

    work: Work
    future: "Future[Work]"


class Denoiser:
    """Continuous batching: in a round every running request advances by one step, each at its own.

    A round is one pass, unless requests need different experts of the model: then it is one for each expert.

    A finished request leaves and waiting ones join at the next pass, as `scheduler.admit` decides. A failing
    pass is divided until the request that causes the failure is alone (`divide.each`); the others get the
    same results as without it. After a pass that was too large for the memory, passes have half its tokens.
    One background thread runs the passes; `submit` may be called from any thread.
    """

    def __init__(
        self,
        model: Experts,
        *,
        token_budget: int,
        publisher: Publisher | None = None,
    ) -> None:
        """Publishes its queue and its passes through `publisher`, if given."""
        self._model = model
        self._budget = self._room = token_budget
        self._publisher = publisher
        self._waiting: deque[_Entry] = deque()
        self._running: list[_Entry] = []
        self._wake = threading.Condition()
        self._closed: Exception | None = None
        self._thread = threading.Thread(target=self._loop, name="denoiser", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> "Future[Work]":
        """Queues `work`; the future returns it with all its steps done.

        The future raises Rejected (GENERATION_FAILED) if every pass with this work fails or its values are
        not finite, and Broken if the device is lost.

        Raises:
            Rejected: TOO_MANY_TOKENS if it exceeds every pass.
            Broken: if the device was lost.
        """
        scheduler.check(work.load, self._budget)
        future: Future[Work] = Future()
        with self._wake:
            if isinstance(self._closed, Broken):
                raise Broken(str(self._closed))
            if self._closed:
                raise RuntimeError("the denoiser is closed")
            self._waiting.append(_Entry(work, future))
            self._wake.notify()
        return future

    def close(self) -> None:
        """Lets the current pass end, stops the thread and cancels unfinished requests."""
        with self._wake:
            self._closed = self._closed or Rejected(Reason.GENERATION_FAILED, "the denoiser was closed")
            self._wake.notify()
        self._thread.join()

    def _loop(self) -> None:
        try:
            while self._gather():
                self._advance()
        except Exception as error:  # no request may wait for a thread that has ended
            self._closed = error if isinstance(error, Broken) else Broken(f"{type(error).__name__}: {error}")
        with self._wake:
            for entry in [*self._running, *self._waiting]:
                if self._closed and not entry.future.done():
                    entry.future.set_exception(self._closed)

    def _gather(self) -> bool:
        """Waits for work and admits the requests that fit; False when closed."""
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
            return self._closed is None

    def _advance(self) -> None:
        """Advances every running request by one step; finished and failed ones leave."""
        for pack in self._packs():
            for entry, outcome in zip(pack, divide.each(pack, self._pass), strict=True):
                self._settle(entry, outcome, alone=len(pack) == 1)
        self._running = [entry for entry in self._running if not entry.future.done()]

    def _packs(self) -> list[list[_Entry]]:
        """The running requests in passes of one expert, and of at most `_room` tokens if memory was short."""
        packs: list[list[_Entry]] = []
        for expert in sorted({entry.work.expert for entry in self._running}):
            free = 0
            for entry in (entry for entry in self._running if entry.work.expert == expert):
                n_tokens = entry.work.load.n_tokens
                if n_tokens > free:
                    packs.append([])
                    free = self._room
                packs[-1].append(entry)
                free -= n_tokens
        return packs

    def _settle(self, entry: _Entry, outcome: Work | Failure, *, alone: bool) -> None:
        if isinstance(outcome, Work) and not outcome.is_finite() and not alone:
            outcome = divide.each([entry], self._pass)[0]  # is it this request, or another one in its pass?
        if isinstance(outcome, Failure):
            _give_up(entry, f"the forward pass failed, also with this request alone: {outcome.detail}")
        elif not outcome.is_finite():
            _give_up(entry, "its values are no longer finite; lower the guidance, or check the model")
        else:
            entry.work = outcome
            if outcome.load.n_passes == 0:
                entry.future.set_result(outcome)

    def _pass(self, entries: Sequence[_Entry]) -> list[Work]:
        """The entries' work one step later. Raises Broken if the device no longer answers."""
        started = time.perf_counter()
        n_tokens = sum(entry.work.load.n_tokens for entry in entries)
        try:
            advanced = self._computed([entry.work for entry in entries])
        except Exception as error:
            _LOG.warning("A pass of %d requests failed: %.500s", len(entries), error)
            if self._is_lost():
                raise Broken(f"the device is lost: {error}") from None
            if divide.is_out_of_memory(error) and len(entries) > 1:
                self._room = n_tokens // 2
            raise
        seconds = time.perf_counter() - started
        self._publish_pass(n_tokens, seconds)
        parts = [entry.work.load.n_tokens / n_tokens for entry in entries]
        return [
            replace(work, device_s=work.device_s + part * seconds)
            for work, part in zip(advanced, parts, strict=True)
        ]

    @torch.inference_mode()
    def _computed(self, works: Sequence[Work]) -> list[Work]:
        velocities = self._model.velocities(works)
        return [sampler.advance(work, parts) for work, parts in zip(works, velocities, strict=True)]

    def _is_lost(self) -> bool:
        """Whether the GPU's context is lost: after some errors all later work fails too."""
        if torch.device(self._model.device).type != "cuda":
            return False
        try:
            torch.ones(1, device=self._model.device).item()
        except Exception as error:
            return not divide.is_out_of_memory(error)
        return False

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


def _give_up(entry: _Entry, detail: str) -> None:
    entry.future.set_exception(Rejected(Reason.GENERATION_FAILED, detail))
