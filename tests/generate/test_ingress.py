"""The ingress asks each stage once its inputs are ready, and wakes all of them at once."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from vitascope import config
from vitascope.generate.app.build import Generate, Parts
from vitascope.generate.app.shares import Takes
from vitascope.generate.opened import opened
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected
from vitascope.prompts.settings import PromptsSettings


class Stage:
    """A handle whose calls end when `answer` does, and are recorded in `calls`."""

    def __init__(self, name: str, calls: list[str], answer: Callable[[], Awaitable[Any]]) -> None:
        self._name, self._calls, self._answer = name, calls, answer
        self.takes: list[Takes] = []

    def __getattr__(self, method: str) -> "Stage":
        stage = Stage(f"{self._name}.{method}", self._calls, self._answer)
        stage.takes = self.takes
        return stage

    def remote(self, *_: Any, takes: Takes, **__: Any) -> Awaitable[Any]:
        self._calls.append(self._name)
        self.takes.append(takes)
        return asyncio.ensure_future(self._answer())


def ingress(model_folder: Path, calls: list[str], **answers: Callable[[], Awaitable[Any]]) -> Any:
    async def at_once() -> str:
        await asyncio.sleep(0)
        return "done"

    stages = {name: Stage(name, calls, answers.get(name, at_once)) for name in ("text", "denoise", "codec")}
    model = opened(config.load(None, [f"generate.model={model_folder}"]))
    return Generate({"": Parts(model, **stages)}, PromptsSettings()), stages, model


def test_a_stage_is_asked_when_its_inputs_are_ready(
    model_folder: Path, request_of: Callable[..., Request]
) -> None:
    async def run() -> None:
        calls: list[str] = []
        ready = asyncio.Event()
        generate, stages, model = ingress(model_folder, calls, text=ready.wait)
        requests = [request_of(custom_id=name, width=64 * n, seed=1) for name, n in (("a", 1), ("b", 4))]
        asked = [asyncio.create_task(generate(r, model.target("/out", r))) for r in requests]
        await asyncio.sleep(0.05)
        assert sorted(calls) == ["codec.awake", "denoise.awake", "text", "text"], "woken once for both"
        ready.set()
        assert await asyncio.gather(*asked) == ["done", "done"]
        assert calls.count("denoise") == calls.count("codec.write") == 2
        small, large = (takes for takes in stages["denoise"].takes if takes.room)
        assert large.cost > 4 * small.cost, "attention is quadratic"
        for one, request in zip((small, large), requests, strict=True):
            assert one.room == pytest.approx(one.cost / request.steps), "what it takes of a pass"
        assert small.lane != large.lane, "neither waits for the other"
        urgent = request_of(priority=3, deadline_s=60, seed=1)
        await generate(urgent, model.target("/out", urgent))
        assert stages["denoise"].takes[-1].lane[:2] == (3, 1)

    asyncio.run(run())


def test_a_refusal_is_an_answer(model_folder: Path, request_of: Callable[..., Request]) -> None:
    async def refuse() -> None:
        refusal = Rejected(Reason.MEDIA_MISSING, "gone")
        raise RayTaskError("canvas", "traceback", refusal)

    async def run() -> Any:
        generate, _, model = ingress(model_folder, [], codec=refuse)
        request = request_of(mode="image_to_video", image="/media/a.png")
        return await generate(request, model.target("/out", request))

    answer = asyncio.run(run())
    assert (answer.reason, answer.detail) == (Reason.MEDIA_MISSING, "gone")


def test_a_long_video_is_accounted_for_where_it_is_written(
    model_folder: Path, request_of: Callable[..., Request]
) -> None:
    async def run() -> None:
        calls: list[str] = []
        generate, stages, model = ingress(model_folder, calls)
        request = request_of(seconds=14, chunk_frames=33)
        assert await generate(request, model.target("/out", request)) == "done"
        assert calls[-1] == "codec.write_long"
        written = stages["codec"].takes[-1]
        assert (written.cost, written.room) == (14 * 8 * 48 * 64, 0)

    asyncio.run(run())
