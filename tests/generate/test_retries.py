"""Which requests are sent to the app again, and which are given up."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from vitascope.errors import Failed
from vitascope.generate.app import sending, serving
from vitascope.generate.app.sending import Sender, unless_stuck
from vitascope.generate.opened import Maker, Target
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected

SIDECAR = {"uri": "/out/a.mp4", "seconds": {"write": 1.5}}
TARGET = Target("/out/a", Maker("/model", "m", 7, "tiny"))


class App:
    """Stands for the app's handle: raises what it is given, in turn, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.at_once: list[int] = []
        self.now = 0

    @property
    def sent(self) -> int:
        return len(self.at_once)

    def remote(self, *_: Any) -> Any:
        return self.answer()

    async def answer(self) -> dict[str, Any]:
        self.now += 1
        self.at_once.append(self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if self.errors:
            raise self.errors.pop(0)
        return SIDECAR


def failed() -> RayTaskError:
    return RayTaskError("write", "a traceback", OSError("no\nspace" * 1000))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_PAUSE_S", 0)


def generate(request: Request, *apps: App) -> list[Any]:
    async def all_of_them() -> list[Any]:
        senders = {id(app): Sender(app, tries=3) for app in apps}
        return await asyncio.gather(*(senders[id(app)](request, TARGET) for app in apps))

    return asyncio.run(all_of_them())


def test_what_happens_once_costs_nothing(request_of: Callable[..., Request]) -> None:
    for error in (failed(), RayActorError()):
        app = App(error)
        assert generate(request_of(), app) == [SIDECAR]
        assert app.sent == 2


def test_what_fails_three_times_is_given_up_with_its_reason_in_a_line(
    request_of: Callable[..., Request],
) -> None:
    app = App(failed(), failed(), failed(), failed())
    (result,) = generate(request_of(), app)
    assert isinstance(result, Rejected)
    assert (result.reason, app.sent) == (Reason.GENERATION_FAILED, 3)
    assert result.detail.startswith("OSError: no space")
    assert "\n" not in result.detail
    assert len(result.detail) <= 500


def test_what_kills_its_replica_is_given_up_after_three(request_of: Callable[..., Request]) -> None:
    app = App(RayActorError(), RayActorError(), RayActorError(), RayActorError())
    (result,) = generate(request_of(), app)
    assert isinstance(result, Rejected)
    assert (result.reason, app.sent) == (Reason.GENERATION_FAILED, 3)


def test_the_last_time_suspects_are_sent_one_by_one(request_of: Callable[..., Request]) -> None:
    app = App(*(RayActorError() for _ in range(10)))  # five requests, two deaths each
    assert generate(request_of(), *[app] * 5) == [SIDECAR] * 5
    assert app.at_once == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 1, 1, 1, 1]


def test_a_batch_whose_replicas_cannot_start_again_ends_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sending, "_LOOK_S", 0.01)
    monkeypatch.setattr(serving, "stuck", lambda name: f"{name} has no model")
    ended = []

    async def work() -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(Failed, match="cannot continue: x has no model; finished outputs are kept"):
        asyncio.run(unless_stuck(work(), "x"))
    assert ended == [True]


def test_a_replica_that_is_slow_to_start_again_ends_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_LOOK_S", 0.01)
    looks = iter([None, "no", "no", "no", None, "no", "no", "no"])
    monkeypatch.setattr(serving, "stuck", lambda _: next(looks, None))

    async def work() -> Any:
        await asyncio.sleep(0.5)
        return "done"

    assert asyncio.run(unless_stuck(work(), "x")) == "done"
    assert asyncio.run(unless_stuck(work(), None)) == "done"
