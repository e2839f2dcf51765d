"""Long videos: made in chunks, decoded without a seam, continued after a failure; all in this process."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from vitascope import storage
from vitascope.encode.codecs import make_codec
from vitascope.generate import conditions, finished, writing
from vitascope.generate.app import codec as app_codec
from vitascope.generate.app.codec import DecodeWrite, Publishing
from vitascope.generate.app.in_chunks import given
from vitascope.generate.app.values import Denoised, Given, Text
from vitascope.generate.chunks import alone, chunks_of
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise import sampler
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.finished import Made
from vitascope.generate.opened import Maker, Target
from vitascope.generate.request import Request
from vitascope.generate.sidecar import NOTHING, Spent
from vitascope.generate.writing import Latents, Stopped
from vitascope.ledger import Reason, Rejected
from vitascope.media.mp4 import mp4_bytes
from vitascope.model.dit import DiT
from vitascope.model.formats.card import ModelCard
from vitascope.provenance.settings import ProvenanceSettings

Make = Callable[..., Request]


class Denoise:
    """What the handle of the app's denoise deployment does, without Ray."""

    def __init__(self, model: DiT, card: ModelCard) -> None:
        self._denoiser, self._card = Denoiser(Experts([model]), token_budget=4096), card
        self.text = Text(
            np.ones((3, card.text_dim), np.float32), np.zeros((0, card.text_dim)), (3, 0), Spent(0.0, 0.1)
        )
        self.made: list[Request] = []
        self.fail_at: int | None = None
        self.error: Exception = RuntimeError("the replica died")

    def remote(self, request: Request, *, text: Text, given: Given | None, **_: Any) -> "Response":
        return Response(self._latent(request, text, given))

    async def _latent(self, request: Request, text: Text, given: Given | None) -> Denoised:
        if len(self.made) == self.fail_at:
            raise self.error
        self.made.append(request)
        empty = conditions.blank(request, self._card.patching, self._card.channels)
        start = Canvas(torch.tensor(given.latent), torch.tensor(given.given)) if given else empty
        states = (torch.tensor(text.prompt), torch.tensor(text.negative))
        work = sampler.begin(request, start, states, card=self._card)
        done = await asyncio.wrap_future(self._denoiser.submit(work))
        return made_of(done.latent(self._card.model.patch).numpy())

    def close(self) -> None:
        self._denoiser.close()


def made_of(latent: np.ndarray) -> Denoised:
    return Denoised(latent, (3, 0), {"text": Spent(0.0, 0.1), "denoise": Spent(0.0, 1.0)}, 0.5)


class Response:
    """What a handle returns."""

    def __init__(self, work: Any) -> None:
        self._task = asyncio.ensure_future(work)
        self.cancelled = False

    def __await__(self) -> Any:
        return asyncio.shield(self._task).__await__()

    def cancel(self) -> None:
        self.cancelled = self._task.cancel()


@pytest.fixture
def denoise(model: DiT, card: ModelCard) -> Any:
    made = Denoise(model, card)
    yield made
    made.close()


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(str(tmp_path / "outputs" / "a"), Maker("m", "i", 1, "l"))


SHORT = {"guidance": 1, "steps": 2}
UNSIGNED = Publishing(ProvenanceSettings(sign=False))
"""A signature holds the time, so that signed files differ."""


def frames_of(location: str) -> np.ndarray:
    with av.open(location) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


async def latents_of(request: Request, denoise: Denoise, card: ModelCard) -> np.ndarray:
    """The whole latent of a long video, chunk after chunk, made plainly."""
    chunks = chunks_of(request, card.patching)
    so_far = (
        await denoise.remote(request_of(request, chunks[0], card), text=denoise.text, given=None)
    ).latent
    for chunk in chunks[1:]:
        canvas = np.zeros((chunk.n_window, *so_far.shape[1:]), np.float32)
        canvas[0] = so_far[0]
        canvas[1 : 1 + chunk.n_before] = so_far[chunk.start - chunk.n_before : chunk.start]
        mask = np.arange(chunk.n_window) <= chunk.n_before
        before = Given(canvas, mask, NOTHING, Spent(0.0, 0.0))
        window = await denoise.remote(request_of(request, chunk, card), text=denoise.text, given=before)
        np.testing.assert_array_equal(window.latent[mask], canvas[mask])
        so_far = np.concatenate([so_far, window.latent[mask.sum() :]])
    return so_far


def request_of(request: Request, chunk: Any, card: ModelCard) -> Request:
    return alone(request, chunk, card.patching)


def test_a_video_in_chunks_is_each_chunk_after_the_one_before_and_one_decode(
    request_of: Make, denoise: Denoise, card: ModelCard, target: Target
) -> None:
    request = request_of(seconds=107 / 8, chunk_frames=33, **SHORT)
    assert len(chunks_of(request, card.patching)) == 5
    write = DecodeWrite(card, denoise=denoise, publishing=UNSIGNED).write_long
    document = asyncio.run(write(request, denoise.text, None, target))
    latent = asyncio.run(latents_of(request, denoise, card))
    assert len(latent) == 28
    groups = make_codec(card.encode).decode(torch.tensor(latent))
    expected = torch.cat(list(groups)).numpy()[:107, :48, :64]
    assert Path(str(document["uri"])).read_bytes() == mp4_bytes(expected, 8)
    assert (document["n_frames"], document["chunk_frames"]) == (107, 33)
    assert document["seconds"]["denoise"] == 5  # type: ignore[index]
    assert (document["seconds"]["text"], document["device_s"]) == (0.1, 2.5)  # type: ignore[index]


def test_one_chunk_is_what_the_ordinary_way_makes(
    request_of: Make, denoise: Denoise, card: ModelCard, target: Target, tmp_path: Path
) -> None:
    request = request_of(seconds=25 / 8, **SHORT)
    codec = DecodeWrite(card, denoise=denoise, publishing=UNSIGNED)

    async def both() -> list[dict[str, Any]]:
        long = await codec.write_long(request, denoise.text, None, target)
        plain = await denoise.remote(request, text=denoise.text, given=None)
        elsewhere = Target(str(tmp_path / "plain"), target.model)
        return [long, await codec.write(request, plain, None, elsewhere)]

    long, plain = asyncio.run(both())
    assert Path(long["uri"]).read_bytes() == Path(plain["uri"]).read_bytes()
    assert {k: v for k, v in long.items() if k not in ("uri", "seconds", "waited")} == {
        k: v for k, v in plain.items() if k not in ("uri", "seconds", "waited")
    }


def test_after_a_failure_it_continues_behind_the_finished_chunks(
    request_of: Make, denoise: Denoise, card: ModelCard, target: Target, tmp_path: Path
) -> None:
    request = request_of(seconds=107 / 8, chunk_frames=33, **SHORT)
    undisturbed = Target(str(tmp_path / "other"), target.model)
    codec = DecodeWrite(card, denoise=denoise, publishing=UNSIGNED)
    document = asyncio.run(codec.write_long(request, denoise.text, None, undisturbed))
    denoise.made.clear()
    denoise.fail_at = 3
    with pytest.raises(RuntimeError, match="the replica died"):
        asyncio.run(codec.write_long(request, denoise.text, None, target))
    running = tmp_path / "outputs" / ".running"
    assert sorted(path.name for path in running.iterdir()) == [f"a.chunk-000{i}" for i in range(3)]
    assert storage.list_files(str(tmp_path / "outputs")) == []
    assert finished.n_kept(target.location) == 3
    (running / "a.chunk-0001").write_bytes(b"damaged")
    denoise.fail_at = None
    again = asyncio.run(
        DecodeWrite(card, denoise=denoise, publishing=UNSIGNED).write_long(
            request, denoise.text, None, target
        )
    )
    chunks = chunks_of(request, card.patching)
    remade = [alone(request, chunks[i], card.patching) for i in (1, 3, 4)]
    assert denoise.made[3:] == remade
    assert Path(str(again["uri"])).read_bytes() == Path(str(document["uri"])).read_bytes()
    assert list(running.iterdir()) == []
    assert finished.n_kept(target.location) == 0


def test_a_refusal_leaves_nothing(
    request_of: Make, denoise: Denoise, card: ModelCard, target: Target, tmp_path: Path
) -> None:
    request = request_of(seconds=107 / 8, chunk_frames=33, **SHORT)
    denoise.fail_at, denoise.error = 2, Rejected(Reason.GENERATION_FAILED, "not finite")
    with pytest.raises(Rejected, match="not finite"):
        asyncio.run(
            DecodeWrite(card, denoise=denoise, publishing=UNSIGNED).write_long(
                request, denoise.text, None, target
            )
        )
    assert [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()] == []


def test_a_cancelled_one_stops_its_chunk_and_leaves_nothing(
    request_of: Make, denoise: Denoise, card: ModelCard, target: Target, tmp_path: Path
) -> None:
    request = request_of(seconds=107 / 8, chunk_frames=33, **SHORT)
    responses: list[Response] = []
    started = denoise.remote

    def third_never_ends(part: Request, **how: Any) -> Response:
        work = started(part, **how) if len(responses) < 2 else Response(asyncio.sleep(1000))
        responses.append(work)
        return work

    denoise.remote = third_never_ends  # type: ignore[method-assign]
    codec = DecodeWrite(card, denoise=denoise, publishing=UNSIGNED)

    async def cancelled() -> None:
        work = asyncio.create_task(codec.write_long(request, denoise.text, None, target))
        while len(responses) < 3:
            await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.wait([work], timeout=30)
        assert work.cancelled()

    asyncio.run(cancelled())
    assert responses[-1].cancelled
    assert [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()] == []
    assert not codec._decoding.locked()


def test_a_short_one_is_written_while_a_long_one_waits_for_its_next_chunk(
    request_of: Make, denoise: Denoise, card: ModelCard, target: Target, tmp_path: Path
) -> None:
    long = request_of(seconds=107 / 8, chunk_frames=33, **SHORT)
    short = request_of(seconds=1, **SHORT)
    codec = DecodeWrite(card, denoise=denoise, publishing=UNSIGNED)

    async def both() -> None:
        go_on = asyncio.Event()
        started = denoise._latent

        async def waits(part: Request, text: Text, canvas: Any) -> Denoised:
            if len(denoise.made) == 2:
                await go_on.wait()
            return await started(part, text, canvas)

        denoise._latent = waits  # type: ignore[method-assign]
        work = asyncio.create_task(codec.write_long(long, denoise.text, None, target))
        while len(denoise.made) < 2:
            await asyncio.sleep(0.01)
        latent = np.zeros((3, 6, 8, card.channels), np.float32)
        elsewhere = Target(str(tmp_path / "short"), target.model)
        await asyncio.wait_for(codec.write(short, made_of(latent), None, elsewhere), 60)
        assert not work.done()
        go_on.set()
        await work

    asyncio.run(both())
    assert len(frames_of(str(tmp_path / "outputs" / "a.mp4"))) == 107


def test_an_extension_begins_with_its_video(
    request_of: Make, denoise: Denoise, card: ModelCard, target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "in.mp4"
    path.write_bytes(mp4_bytes(np.full((80, 48, 64, 3), 200, np.uint8), 8))
    asked = {"mode": "extend_forward", "video": str(path)}
    request = request_of(seconds=107 / 8, chunk_frames=33, **asked, **SHORT)
    codec = DecodeWrite(card, denoise=denoise, publishing=UNSIGNED)

    async def made() -> dict[str, Any]:
        first = alone(request, chunks_of(request, card.patching)[0], card.patching)
        canvas = await codec.canvas(first)
        return await codec.write_long(request, denoise.text, canvas, target)

    document = asyncio.run(made())
    assert document["given"]["first"] == 13
    assert document["given"]["spans"] == [[0, 13]]
    assert document["given"]["psnr_db"] > 30
    shown = frames_of(document["uri"])
    assert len(shown) == 107
    assert abs(shown[:13].mean() - 200) < 6


def test_chunks_kept_by_a_release_that_cut_otherwise_are_made_again(
    request_of: Make, card: ModelCard, target: Target
) -> None:
    first, second, *_ = chunks_of(request_of(seconds=107 / 8, chunk_frames=33), card.patching)
    latent = np.ones((2, 3, 4, 5), np.float32)
    finished.keep(target.location, second, Made(latent, 0.5, 2.5, 2.0))
    found = finished.kept(target.location, second)
    assert found
    np.testing.assert_array_equal(found.latent, latent)
    assert found[1:] == (0.5, 2.5, 2.0)
    assert finished.kept(target.location, first) is None
    finished.keep(target.location, first, found)
    storage.put(
        finished.location(target.location, 1), storage.read_bytes(finished.location(target.location, 0))
    )
    assert finished.kept(target.location, second) is None
    finished.forget(target.location, [first, second])
    assert finished.kept(target.location, second) is None


def test_the_window_of_a_chunk_is_the_first_frame_and_those_before_it(request_of: Make) -> None:
    chunk = chunks_of(request_of(seconds=107 / 8, chunk_frames=33), card_patching())[2]
    so_far = np.arange(chunk.start, dtype=np.float32)[:, None, None, None] + 1
    before = given(chunk, so_far)
    latent, mask = before.latent, before.given
    n = chunk.n_before
    expected = [1, *range(chunk.start - n + 1, chunk.start + 1), *[0] * (chunk.stop - chunk.start)]
    assert latent[:, 0, 0, 0].tolist() == expected
    assert mask.tolist() == [frame != 0 for frame in expected]


def card_patching() -> Any:
    from synthetic import tiny_card

    return tiny_card().patching


def test_a_writer_that_fails_gives_the_codec_back(
    request_of: Make, card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = threading.Lock()
    latents = Latents(turn)
    used = latents.add(np.zeros((3, 6, 8, card.channels), np.float32))

    def broken(*_: Any) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(writing.mp4, "yuv", broken)
    codec = make_codec(card.encode)
    how = {"codec": codec, "patching": card.patching, "stem": tmp_path / "a"}
    with pytest.raises(OSError, match="no space left"):
        writing.write(latents, request_of(), **how)
    assert not turn.locked()
    assert used.done()
    latents.stop()
    with pytest.raises(Stopped):
        writing.write(latents, request_of(), **how)


def test_a_failed_write_stops_the_chunks(
    request_of: Make, denoise: Denoise, card: ModelCard, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(seconds=107 / 8, chunk_frames=33, **SHORT)

    def broken(*_: Any, **__: Any) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(app_codec.writing, "write", broken)
    with pytest.raises(OSError, match="no space left"):
        asyncio.run(
            DecodeWrite(card, denoise=denoise, publishing=UNSIGNED).write_long(
                request, denoise.text, None, target
            )
        )
    assert len(denoise.made) <= 2
