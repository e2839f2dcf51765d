"""Runs many requests through shared forward passes."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from math import prod

import torch

from vitascope.generate.denoise import divide, sampler, scheduler
from vitascope.generate.denoise.divide import Broken, Failure
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.pace import Pace
from vitascope.generate.denoise.sampler import Work
from vitascope.generate.denoise.scheduler import Deadline, Need, Queue, Room
from vitascope.generate.denoise.states import Saver, Slot
from vitascope.ledger import Reason, Rejected
from vitascope.metrics import Publisher

_LOG = logging.getLogger("ray.serve")  # the replica's log


@dataclass(eq=False)
class _Entry:
    """A request in the engine, its future, and what its next pass takes.

    due: the time on the monotonic clock by which it has to end. at: the slot of its states.
    """

    work: Work
    future: "Future[Work]"
    need: Need
    due: float | None = None
    at: Slot | None = None
    begun: bool = False
    answered: bool = False


class Denoiser:
    """Continuous batching: in every pass, the requests that share it advance by one step, each at its own.

    `scheduler.Queue` orders the requests and `scheduler.admit` selects those of the next pass, which may
    leave out some that have begun. A request leaves once it is finished, refused or cancelled. A failing pass
    is divided until the request that causes the failure is alone (`divide.each`); the others get the same
    results as without it. After a pass that was too large for the memory, passes have half its tokens. One
    background thread runs the passes; all methods may be called from any thread.
    """

    def __init__(
        self,
        model: Experts,
        *,
        token_budget: float,
        max_tokens: int | None = None,
        pace: Pace | None = None,
        saver: Saver | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        """Publishes its queue and its passes through `publisher`, and saves states with `saver`, if given.

        Args:
            token_budget: the cost of a pass, in patches of a tiny image, that saturates the device.
            max_tokens: most patches of one request in a pass; by default the same.
            pace: of passes that were measured before.
        """
        self._model = model
        self._most = int(token_budget) if max_tokens is None else max_tokens
        self._room = Room(max(int(token_budget), self._most), token_budget)
        self._pace, self._saver, self._publisher = pace or Pace(), saver, publisher
        self._queue: Queue[_Entry] = Queue()
        self._n_begun = 0
        self._passing: tuple[float, float] | None = None  # when the running pass began, and its cost
        self._wake = threading.Condition()
        self._closed: Exception | None = None
        self._thread = threading.Thread(target=self._loop, name="denoiser", daemon=True)
        self._thread.start()

    def submit(
        self, work: Work, *, priority: int = 0, deadline_s: float | None = None, at: Slot | None = None
    ) -> "Future[Work]":
        """Queues `work`; the future returns it with all its steps done.

        The future may be cancelled until it is done; the request then takes part in no further pass. It
        raises Rejected (GENERATION_FAILED) if every pass with this work fails or its values are not finite,
        Rejected (TOO_LATE) as soon as its deadline cannot be met, and Broken if the device is lost.

        Args:
            priority: higher ones go first.
            deadline_s: seconds from now in which it has to end.
            at: the slot of its states while it runs.

        Raises:
            Rejected: TOO_MANY_TOKENS if it exceeds what a request may have; TOO_LATE.
            Broken: if the device was lost.
        """
        scheduler.check(work.load, self._most)
        due = None if deadline_s is None else time.monotonic() + deadline_s
        entry = _Entry(work, Future(), self._need(work), due, at)
        if self._lost_at(entry) <= time.monotonic():
            if self._saver and at:
                self._saver.end(at, delete=True)
            raise self._too_late(entry)
        entry.future.add_done_callback(lambda _: self._left(entry))
        with self._wake:
            if isinstance(self._closed, Broken):
                raise Broken(str(self._closed))
            if self._closed:
                raise RuntimeError("the denoiser is closed")
            total = entry.need.cost * work.load.n_passes
            self._queue.add(entry, total, priority=priority, deadline=self._deadline(entry))
            self._wake.notify()
        return entry.future

    def close(self) -> None:
        """Lets the current pass end, stops the thread, and refuses the other requests; their states stay."""
        with self._wake:
            self._closed = self._closed or Rejected(Reason.GENERATION_FAILED, "the denoiser was closed")
            self._wake.notify()
        self._thread.join()

    def least_s(self, work: Work) -> float:
        """The seconds that the remaining passes of `work` take at least; 0 if nothing is known."""
        n = prod(work.grid)
        cost = self._model.weight(n) * n
        return sum(
            n_passes * self._pace.least_s(n_segments * cost)
            for n_segments, n_passes in enumerate(work.least, start=1)
        )

    def stalled_s(self) -> float:
        """The seconds since the running pass began; 0 between passes."""
        passing = self._passing
        return time.monotonic() - passing[0] if passing else 0.0

    def check_health(self) -> None:
        """Raises Broken if the device is lost, or if the running pass takes far longer than any before."""
        if isinstance(self._closed, Broken):
            raise Broken(str(self._closed))
        if (passing := self._passing) is None:
            return
        limit_s, stalled_s = self._pace.limit_s(passing[1], self._room), time.monotonic() - passing[0]
        if stalled_s > limit_s:
            raise Broken(f"a pass has taken {stalled_s:.0f} s, and should have taken {limit_s:.0f} s at most")

    def _need(self, work: Work) -> Need:
        """What the next pass of `work` takes."""
        n_tokens = work.n_tokens
        return Need(n_tokens, self._model.weight(prod(work.grid)) * n_tokens, work.expert)

    def _deadline(self, entry: _Entry) -> Deadline | None:
        if entry.due is None:
            return None
        usual_s = entry.work.load.n_passes * self._pace.usual_s(entry.need.cost, self._room)
        return Deadline(entry.due - usual_s / scheduler.URGENT, self._lost_at(entry))

    def _lost_at(self, entry: _Entry) -> float:
        """The time after which the entry's deadline cannot be met, if it led every pass."""
        due = float("inf") if entry.due is None else entry.due
        return due - self.least_s(entry.work)

    def _too_late(self, entry: _Entry) -> Rejected:
        n_passes, least_s = sum(entry.work.least), self.least_s(entry.work)
        left_s = max(0.0, (entry.due or 0.0) - time.monotonic())
        return Rejected(
            Reason.TOO_LATE,
            f"{left_s:.3g} s are left until its deadline, and its {n_passes} passes take {least_s:.3g} s at "
            "least; give it more time, fewer steps or a smaller size",
        )

    def _left(self, entry: _Entry) -> None:
        """The entry's future is done: by the engine, or cancelled by whoever waits for it."""
        with self._wake:
            self._queue.remove(entry)
            self._n_begun -= entry.begun
        self._answers(entry)  # so that those who wait for a cancelled future wake up
        if self._saver and entry.at:
            cancelled = entry.future.cancelled()
            goes_on = not cancelled and self._closed and entry.future.exception() is self._closed
            self._saver.end(entry.at, delete=not goes_on)

    def _answers(self, entry: _Entry) -> bool:
        """Whether the caller has to settle the entry's future: True once, unless it is cancelled."""
        with self._wake:
            first, entry.answered = not entry.answered, True
        return first and entry.future.set_running_or_notify_cancel()

    def _refuse(self, entry: _Entry, why: Exception) -> None:
        if self._answers(entry):
            entry.future.set_exception(why)

    def _loop(self) -> None:
        try:
            while self._gather():
                self._advance()
        except Exception as error:  # no request may wait for a thread that has ended
            self._closed = error if isinstance(error, Broken) else Broken(f"{type(error).__name__}: {error}")
        with self._wake:
            left = list(self._queue)
        for entry in left:
            self._refuse(entry, self._closed or Broken("the denoiser has ended"))
        if self._saver:
            self._saver.close()

    def _gather(self) -> bool:
        """Waits for work, and refuses what has become too late; False when closed."""
        with self._wake:
            self._publish_queue()
            while not (self._queue or self._closed):
                self._wake.wait()
            late = self._queue.lost(time.monotonic(), self._lost_at)
        for entry in late:
            self._refuse(entry, self._too_late(entry))
        return self._closed is None

    def _advance(self) -> None:
        """Advances the requests of the next passes by one step; finished and failed ones leave."""
        for pack in self._packs():
            n_tokens = self._room.n_tokens
            outcomes = divide.each(pack, self._pass)
            if any(isinstance(outcome, Failure) and outcome.out_of_memory for outcome in outcomes):
                self._room = replace(self._room, n_tokens=n_tokens)  # it was that request, not the pass
            for entry, outcome in zip(pack, outcomes, strict=True):
                self._settle(entry, outcome, alone=len(pack) == 1)

    def _packs(self) -> list[list[_Entry]]:
        """The requests of the next pass, the one that leads it first; none if all have left meanwhile."""
        seen: list[_Entry] = []
        with self._wake:
            joined = scheduler.admit(self._seen(seen), self._room)
            pack = [seen[index] for index in joined]
            if pack:
                cost = sum(entry.need.cost for entry in pack)
                self._queue.led(pack[0], self._room.device_time(cost))
            for entry in pack:
                self._n_begun += not entry.begun
                entry.begun = True
            self._publish_queue()
        return [pack] if pack else []

    def _seen(self, seen: list[_Entry]) -> Iterator[Need]:
        for entry in self._queue.view(time.monotonic()):
            seen.append(entry)
            yield entry.need

    def _settle(self, entry: _Entry, outcome: Work | Failure, *, alone: bool) -> None:
        if isinstance(outcome, Work) and not outcome.is_finite() and not alone:
            outcome = divide.each([entry], self._pass)[0]  # is it this request, or another one in its pass?
        if isinstance(outcome, Failure):
            self._give_up(entry, f"the forward pass failed, also with this request alone: {outcome.detail}")
        elif not outcome.is_finite():
            self._give_up(entry, "its values are no longer finite; lower the guidance, or check the model")
        elif outcome.load.n_passes == 0:
            if self._answers(entry):
                entry.future.set_result(outcome)
        else:
            entry.work, entry.need = outcome, self._need(outcome)
            with self._wake:  # once it is answered, its state is deleted
                if self._saver and entry.at and not entry.answered:
                    self._saver.keep(entry.at, outcome)

    def _give_up(self, entry: _Entry, detail: str) -> None:
        self._refuse(entry, Rejected(Reason.GENERATION_FAILED, detail))

    def _pass(self, entries: Sequence[_Entry]) -> list[Work]:
        """The entries' work one step later. Raises Broken if the device no longer answers."""
        started, cost = time.monotonic(), sum(entry.need.cost for entry in entries)
        n_tokens = sum(entry.need.n_tokens for entry in entries)
        self._passing = started, cost
        try:
            advanced = self._computed([entry.work for entry in entries])
        except Exception as error:
            _LOG.warning("A pass of %d requests failed: %.500s", len(entries), error)
            if self._is_lost():
                raise Broken(f"the device is lost: {error}") from None
            if divide.is_out_of_memory(error) and len(entries) > 1:
                self._room = replace(self._room, n_tokens=n_tokens // 2)
            raise
        finally:
            self._passing = None
        seconds = time.monotonic() - started
        self._pace.add(cost, seconds, self._room)
        self._publish_pass(n_tokens, cost, seconds)
        return [
            replace(work, device_s=work.device_s + seconds * entry.need.cost / cost)
            for entry, work in zip(entries, advanced, strict=True)
        ]

    @torch.inference_mode()
    def _computed(self, works: Sequence[Work]) -> list[Work]:
        velocities = self._model.velocities(works)
        advanced = [sampler.advance(work, parts) for work, parts in zip(works, velocities, strict=True)]
        if torch.device(self._model.device).type == "cuda":
            torch.cuda.synchronize()  # a pass takes as long as the device, and has its errors
        return advanced

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
            self._publisher.set("generate_waiting", len(self._queue) - self._n_begun)
            self._publisher.set("generate_running", self._n_begun)

    def _publish_pass(self, n_tokens: int, cost: float, seconds: float) -> None:
        if self._publisher:
            self._publisher.add("generate_passes")
            self._publisher.add("generate_pass_s", seconds)
            self._publisher.add("generate_pass_tokens", n_tokens)
            # A pass of such requests is full when its cost, not its number of patches, fills the budget.
            self._publisher.add("generate_pass_budget", n_tokens * self._room.device_time(cost) / cost)
