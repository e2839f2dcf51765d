"""Every line ends with one row: in order, paused, cancelled or failing, and whoever ends first."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitascope import storage
from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.generate.batch import control, streaming
from vitascope.generate.batch.batch import Batch
from vitascope.generate.batch.control import Wish
from vitascope.generate.batch.manifest import Manifest
from vitascope.generate.batch.progress import Progress, State
from vitascope.generate.batch.streaming import Stream
from vitascope.generate.opened import Target
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected

SIDES = (16, 32, 48, 64)
Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_LOOK_S", 0.01)
    monkeypatch.setattr(streaming, "_REPORT_S", 0.01)
    monkeypatch.setattr(streaming, "WINDOW", 40)
    monkeypatch.setattr(streaming, "_MOST_AHEAD", 160)


class App:
    """Stands for the app: commits an output for each request after some turns of the loop."""

    def __init__(self, *, turns: int = 5, wrong: Callable[[Request], Any] = lambda _: None) -> None:
        self.turns, self.wrong, self.rng = turns, wrong, random.Random(0)
        self.sent: list[Request] = []
        self.now = self.most = self.cancelled = 0

    async def __call__(self, request: Request, target: Target) -> dict[str, Any] | Rejected:
        self.sent.append(request)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for _ in range(self.rng.randrange(self.turns)):
                await asyncio.sleep(0)
            result = self.wrong(request)
            if isinstance(result, Awaitable):
                result = await result
            return result or commit(request, target)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1


def commit(request: Request, target: Target) -> dict[str, Any]:
    uri = target.location + ".png"
    sidecar = {"uri": uri, "seconds": {"denoise": 1.0}, "device_s": 0.5, "custom_id": request.custom_id}
    storage.put(uri, b"png")
    storage.put_json(target.location + ".json", sidecar)
    return sidecar


def batch_of(folder: Path, model_folder: Path, n: int = 400, **generate: Any) -> Batch:
    """A batch of `n` pictures of several sizes; every 50th line is wrong, and every 60th empty."""
    rng = random.Random(1)
    lines = []
    for number in range(n):
        side = rng.choice(SIDES)
        document = {"custom_id": f"r{number}", "prompt": "a cat", "width": side, "height": side, "seconds": 0}
        lines.append("" if number % 60 == 59 else "{" if number % 50 == 49 else json.dumps(document))
    (folder / "requests.jsonl").write_text("\n".join(lines))
    generate = {"max_in_flight": 8} | generate
    generate |= {"requests": str(folder / "requests.jsonl"), "model": str(model_folder)}
    return Batch.of(Settings.model_validate({"run": {"folder": str(folder / "run")}, "generate": generate}))


def run(batch: Batch, app: App, told: Callable[..., None] = lambda *_: None) -> tuple[Rows, Manifest]:
    location = storage.join(batch.folder, "manifest.parquet")
    with Manifest() as manifest:
        asyncio.run(asyncio.wait_for(Stream(batch, app, manifest, told, asked=lambda *_: None).run(), 60))
        manifest.commit(location)
    return storage.rows(location), manifest


def expected_lines(batch: Batch) -> list[int]:
    return [line.number for line in batch.lines()]


def test_each_line_has_a_row_in_order_and_each_request_was_sent_once(
    model_folder: Path, tmp_path: Path
) -> None:
    batch, app, told = batch_of(tmp_path, model_folder), App(), []
    rows, manifest = run(batch, app, lambda *how: told.append(how))
    assert [row["line"] for row in rows] == expected_lines(batch)
    sent = [request.custom_id for request in app.sent]
    assert len(sent) == len(set(sent)) == manifest.n_outputs == 387
    assert sorted(sent) == sorted(row["custom_id"] for row in rows if row["status"] == "ok")
    assert (app.most, manifest.n_failed, len(told)) == (8, 7, 394)
    row = next(row for row in rows if row["status"] == "ok")
    assert (row["seconds"], row["device_s"], row["uri"][-4:]) == (1.0, 0.5, ".png")
    last: Progress = told[-1][2]
    assert (last.requests, last.total, last.exact, last.work) == (394, 394, True, 1.0)


def test_within_a_window_the_costliest_are_sent_first(model_folder: Path, tmp_path: Path) -> None:
    batch, app = batch_of(tmp_path, model_folder), App()
    run(batch, app)
    costs = [batch.models.of(request).cost(request) for request in app.sent]
    numbers = [int(request.custom_id[1:]) for request in app.sent]
    windows = np.searchsorted([39, 80, 121, 161], numbers[:150])  # lines that are blank do not count
    for window in range(3):
        own = [cost for cost, of in zip(costs, windows, strict=False) if of == window]
        assert len(own) > 30
        assert own == sorted(own, reverse=True)


def test_what_is_finished_is_not_sent_again(model_folder: Path, tmp_path: Path) -> None:
    batch = batch_of(tmp_path, model_folder)
    first = App(wrong=lambda request: Rejected(Reason.GENERATION_FAILED, "no") if failing(request) else None)
    before, manifest = run(batch, first)
    assert manifest.failed[Reason.GENERATION_FAILED] == 131
    sidecar = next(row["uri"] for row in before if row["status"] == "ok").replace(".png", ".json")
    Path(sidecar).write_text("[]")
    again = App()
    rows, manifest = run(batch_of(tmp_path, model_folder), again)
    assert {request.custom_id for request in again.sent} == {
        r["custom_id"] for r in before if r["detail"] == "no"
    }
    assert (manifest.skipped, manifest.n_outputs) == (255, 386)
    spoilt = [row for row in rows if row["reason"] == "unreadable"]
    assert len(spoilt) == 1
    assert "delete it to generate this again" in spoilt[0]["detail"]


def failing(request: Request) -> bool:
    return int(request.custom_id[1:]) % 3 == 0


def test_an_output_without_its_sidecar_is_made_again(model_folder: Path, tmp_path: Path) -> None:
    batch = batch_of(tmp_path, model_folder, n=9)
    run(batch, App())
    sidecars = sorted(Path(batch.folder).glob("r*.json"))
    outputs = sorted(Path(batch.folder).glob("r*.png"))
    sidecars[0].unlink()
    outputs[5].unlink()
    app = App()
    run(batch_of(tmp_path, model_folder, n=9), app)
    assert len(app.sent) == 2


def test_one_slow_request_holds_rows_back_but_no_more_than_a_few_windows(
    model_folder: Path, tmp_path: Path
) -> None:
    ahead: list[int] = []
    enough = asyncio.Event()

    async def waits() -> None:
        await enough.wait()

    batch = batch_of(tmp_path, model_folder, n=1000)
    app = App(wrong=lambda request: waits() if request.custom_id == "r3" else None)

    def told(*_: Any) -> None:
        ahead.append(len(app.sent))
        if len(ahead) == 150:  # the stream can have done no more than 160 by then
            asyncio.get_running_loop().call_later(0.3, enough.set)

    rows, _ = run(batch, app, told)
    assert len(rows) == len(expected_lines(batch))
    first = next(n for n, request in enumerate(app.sent) if request.custom_id == "r3")
    assert first < 40
    assert 150 <= max(ahead[:159]) <= 200


def test_a_paused_batch_sends_nothing_until_it_is_resumed(model_folder: Path, tmp_path: Path) -> None:
    batch, app, seen = batch_of(tmp_path, model_folder), App(), []

    async def main() -> None:
        with Manifest() as manifest:
            working = asyncio.create_task(
                Stream(batch, app, manifest, lambda *_: None, asked=lambda *_: None).run()
            )
            while len(app.sent) < 50:
                await asyncio.sleep(0)
            control.ask(batch.folder, Wish.PAUSE)
            while not (
                app.now == 0 and (report := control.reported(batch.folder)) and report.state == "paused"
            ):
                await asyncio.sleep(0.01)
            seen.append(len(app.sent))
            await asyncio.sleep(0.2)
            seen.append(len(app.sent))
            assert not working.done()
            control.ask(batch.folder, Wish.RESUME)
            await working
            assert manifest.n_outputs == 387

    asyncio.run(asyncio.wait_for(main(), 60))
    assert seen[0] == seen[1] < 387
    report = control.reported(batch.folder)
    assert report is not None
    assert (report.state, report.requests, report.work) == (State.ENDED, 394, 1.0)


def test_a_cancelled_batch_ends_with_a_row_for_each_request_and_stays_so(
    model_folder: Path, tmp_path: Path
) -> None:
    batch = batch_of(tmp_path, model_folder)

    async def for_ever() -> None:
        if app.now == 8:
            control.ask(batch.folder, Wish.CANCEL)
        await asyncio.sleep(600)

    app = App(wrong=lambda _: for_ever() if len(app.sent) > 100 else None)
    rows, manifest = run(batch, app)
    assert app.cancelled == 8 == app.most
    assert manifest.failed == {"cancelled": 387 - manifest.n_outputs, "invalid_request": 7}
    assert 90 < manifest.n_outputs <= 101
    assert [row["line"] for row in rows] == expected_lines(batch)
    assert not manifest.summary()["succeeded"]
    report = control.reported(batch.folder)
    assert report is not None
    assert (report.state, report.requests) == (State.CANCELLED, 394)
    rows, again = run(batch_of(tmp_path, model_folder), None)  # type: ignore[arg-type]
    assert again.failed == manifest.failed
    assert again.skipped == manifest.n_outputs
    control.ask(batch.folder, Wish.RESUME)
    rows, last = run(batch_of(tmp_path, model_folder), App())
    assert (last.n_outputs, len(rows)) == (387, 394)


def test_cancelled_at_once_even_requests_that_were_just_sent_get_a_row(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, app = batch_of(tmp_path, model_folder), App()
    started = Stream._started

    def started_and_cancelled(self: Stream, *how: Any) -> Any:
        task = started(self, *how)
        asyncio.get_running_loop().call_soon(self._follow, Wish.CANCEL)  # before the task's first step
        return task

    monkeypatch.setattr(Stream, "_started", started_and_cancelled)
    rows, _ = run(batch, app)
    assert [row["line"] for row in rows] == expected_lines(batch)


@pytest.mark.parametrize("how", ["send", "told", "wish", "file"])
def test_what_fails_otherwise_ends_the_job(
    model_folder: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(tmp_path, model_folder)

    def fails(*_: Any) -> Any:
        raise Mistake("the store is gone")

    app = App(wrong=lambda request: fails() if how == "send" and request.custom_id == "r90" else None)
    if how == "wish":
        wishes = iter([Wish.PAUSE])
        monkeypatch.setattr(control, "wished", lambda _: next(wishes, None) or fails())
    if how == "file":
        content = (tmp_path / "requests.jsonl").read_bytes()
        batch = Batch(**vars(batch) | {"requests": str(tmp_path / "requests.jsonl.gz")})
        (tmp_path / "requests.jsonl.gz").write_bytes(content)
    expected = "not a whole compressed file" if how == "file" else "the store is gone"
    with pytest.raises(Mistake, match=expected):
        run(batch, app, fails if how == "told" else lambda *_: None)
    assert app.now == 0
