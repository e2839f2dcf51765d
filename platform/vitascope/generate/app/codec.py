"""Media to conditioning latents, and latents to committed files."""

import asyncio
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from ray.exceptions import RayTaskError

from vitascope import storage
from vitascope.clips.filters import HookFilter
from vitascope.encode.codecs import Codec, make_codec
from vitascope.generate import conditions, finished, media, writing
from vitascope.generate.app.in_chunks import in_chunks
from vitascope.generate.app.shares import FREE, Takes
from vitascope.generate.app.values import Denoised, Given, Metered, Text, device
from vitascope.generate.changes import changes
from vitascope.generate.chunks import chunks_of
from vitascope.generate.denoise import states
from vitascope.generate.opened import Target
from vitascope.generate.request import Request
from vitascope.generate.sidecar import (
    NOTHING,
    Kept,
    Spent,
    claim,
    conditioning,
    put_conditioning,
    sidecar,
)
from vitascope.generate.starting import starting
from vitascope.generate.writing import Latents, Written
from vitascope.ledger import Rejected
from vitascope.media.mp4 import jpeg_bytes
from vitascope.model.formats.card import ModelCard
from vitascope.provenance.settings import ProvenanceSettings
from vitascope.provenance.signer import Signer

WRITES = 2.0
"""Outputs that a replica works on: one is decoded while another is uploaded."""
_MOST_CANVASES = 4  # conditioning latents in work at a time
_MOST_LONG = 4
"""Long videos in work at a time: each keeps the features of a causal codec, gigabytes at 720p."""
_PREVIEW_PX = 320
_MOST_THREADS = 32  # more than all of these need

T = TypeVar("T")


class _Output(NamedTuple):
    """An output that is being written: what is asked for, and where; `used`: the prompt that was used."""

    request: Request
    target: Target
    given: Given | None
    used: str | None

    @property
    def kept(self) -> Kept:
        """Its conditioning frames."""
        return self.given.kept if self.given else NOTHING


class Part(NamedTuple):
    """What the sidecar takes from `Denoised`, of which a long video has many."""

    spent: dict[str, Spent]
    n_text: tuple[int, int]
    device_s: float


@dataclass(frozen=True)
class Publishing:
    """What an output goes through before it is committed: who signs it, and what refuses its frames."""

    provenance: ProvenanceSettings = field(default_factory=ProvenanceSettings)
    frames: HookFilter = field(default_factory=HookFilter)


_USUAL = Publishing()


class DecodeWrite(Metered):
    """Media to conditioning latents, and latents to committed files: the work that needs the codec.

    A replica decodes one output at a time, a long video only while it has latents, and meanwhile uploads
    another and reads media for others. They take turns at the codec itself, for a latent frame of an output
    or for a whole conditioning latent.
    """

    room = WRITES

    def __init__(
        self, card: ModelCard, gpus: float = 0, denoise: Any = None, publishing: Publishing = _USUAL
    ) -> None:
        """`denoise`: the handle that makes the chunks of long videos."""
        super().__init__()
        with starting("the codec"):
            self._codec = _Shared(make_codec(card.encode, device(gpus)))
        with starting("signing"):
            self._signer = Signer(publishing.provenance)
        self._frames = publishing.frames
        self._patching, self._most_text = card.patching, card.encode.max_text_tokens
        self._patch = card.model.patch
        self._denoise, self._caller = denoise, uuid.uuid4().hex
        self._decoding = threading.Lock()
        self._canvases, self._long = asyncio.Semaphore(_MOST_CANVASES), asyncio.Semaphore(_MOST_LONG)
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "codec")

    async def canvas(self, request: Request, *, ready: float | None = None, takes: Takes = FREE) -> Given:
        """The request's conditioning latent, asked for at the time of day `ready`, by default now."""
        ready = ready or time.time()
        with self.meter.doing(takes):
            async with self._canvases:
                return await _to_the_end(self._thread(self._canvas, request, ready))

    def _canvas(self, request: Request, ready: float) -> Given:
        started = time.time()
        place, frames = media.read_given(request, self._patching)
        canvas = conditions.canvas(place, frames, self._codec)
        kept, spent = conditioning(request, place, frames), Spent.since(ready, started)
        return Given(canvas.latent.numpy(), canvas.given.numpy(), kept, spent)

    async def preview(self, location: str, *, takes: Takes = FREE) -> bytes | None:
        """A jpeg of the first frame of an output that is being made, as its saved state has it; else None."""
        with self.meter.doing(takes):
            return await _to_the_end(self._thread(self._preview, location))

    def _preview(self, location: str) -> bytes | None:
        state = states.read(location)
        if state is None:
            return None
        first = state.latent(self._patch)[:1]
        frames = next(iter(self._codec.decode_parts([first])))
        return jpeg_bytes(frames[0].cpu().numpy(), _PREVIEW_PX)

    async def write(
        self,
        request: Request,
        denoised: Denoised,
        given: Given | None,
        target: Target,
        *,
        takes: Takes = FREE,
        used: str | None = None,
    ) -> dict[str, object]:
        """Decodes, encodes and commits the output, then creates the sidecar and returns it.

        The sidecar marks the request as finished. If attempts race, one creates it, and all return that one.

        Args:
            used: the prompt that was used, if it may be another one.

        Raises:
            Rejected: FRAMES_REFUSED.
        """

        async def only() -> AsyncGenerator[Denoised, None]:
            yield denoised

        with self.meter.doing(takes):
            return await self._written(_Output(request, target, given, used), only())

    async def write_long(
        self,
        request: Request,
        text: Text,
        given: Given | None,
        target: Target,
        *,
        takes: Takes = FREE,
        arrived: float | None = None,
        chunk: Takes = FREE,
        used: str | None = None,
    ) -> dict[str, object]:
        """The same of a long video, whose chunks it has made: one is decoded while the next is made.

        Finished chunks are kept until the output is committed, or refused, or cancelled: after any other
        failure, the request sent again continues after them.

        Args:
            arrived: the Unix time from which on the request's deadline counts.
            chunk: what a chunk takes of a replica that denoises it.

        Raises:
            Rejected: why a chunk cannot be made; FRAMES_REFUSED.
        """
        how = {"takes": replace(chunk, caller=self._caller), "arrived": arrived or time.time()}
        chunks = chunks_of(request, self._patching)
        try:
            with self.meter.doing(takes):
                async with self._long:
                    denoise = partial(self._denoise.remote, target=target, **how)
                    made = in_chunks(request, text, given, target, patching=self._patching, denoise=denoise)
                    document = await self._written(_Output(request, target, given, used), made)
        except (asyncio.CancelledError, Rejected, RayTaskError) as error:
            cause = getattr(error, "cause", error)
            if isinstance(cause, asyncio.CancelledError | Rejected):
                await asyncio.to_thread(finished.forget, target.location, chunks)
                raise cause from None
            raise
        await asyncio.to_thread(finished.forget, target.location, chunks)
        return document

    async def _written(self, output: _Output, made: AsyncGenerator[Denoised, None]) -> dict[str, object]:
        """Writes the latents as they are made, and commits the output and its sidecar."""
        latents, parts = Latents(self._decoding), list[Part]()
        with tempfile.TemporaryDirectory() as folder:
            file = self._thread(self._file, latents, output, Path(folder))
            try:
                async with aclosing(made) as chunks:
                    async for chunk in chunks:
                        parts.append(Part(chunk.spent, chunk.n_text, chunk.device_s))
                        used = asyncio.wrap_future(latents.add(chunk.latent))
                        either: list[asyncio.Future[Any]] = [used, file]
                        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                        if file.done():
                            break  # crop needs no more, or it failed
                latents.end()
                written = await _to_the_end(file)
            except BaseException:
                latents.stop()
                with suppress(Exception):
                    await asyncio.shield(file)
                raise
            return await _to_the_end(self._thread(self._commit, output, written, parts))

    def _thread(self, function: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def _file(self, latents: Latents, output: _Output, folder: Path) -> Written:
        """Writes the output's file as its latents come."""
        how: dict[str, Any] = {"codec": self._codec, "patching": self._patching, "stem": folder / "output"}
        return writing.write(latents, output.request, output.kept, frames=self._frames, **how)

    def _commit(self, output: _Output, written: Written, parts: list[Part]) -> dict[str, object]:
        """Signs and commits the finished file, and then the sidecar."""
        request, target, kept = output.request, output.target, output.kept
        started, suffix = time.time(), written.path.suffix
        path, provenance = self._signed(written.path, output)
        signed = Spent.since(started, started)
        started = time.time()
        storage.put(target.location + suffix, path)
        used = output.used if output.used != request.prompt else None
        about = {
            "prompt_used": used,
            "provenance": provenance,
            "device_s": round(sum(part.device_s for part in parts), 6),
            "changes": changes(request, self._patching, parts[0].n_text, self._most_text),
            **put_conditioning(target.location, kept, written.psnr_db),
        }
        of_stages = {stage: Spent.total([part.spent[stage] for part in parts]) for stage in parts[0].spent}
        of_stages |= written.spent | {"sign": signed, "upload": Spent.since(started, started)}
        document = sidecar(request, target, suffix, of_stages) | about
        if storage.create(target.location + ".json", storage.json_bytes(document)):
            return document
        return storage.read_json(target.location + ".json")

    def _signed(self, path: Path, output: _Output) -> tuple[Path, dict[str, str] | None]:
        """The signed file and the sidecar's part about it; the file itself if files are not signed."""
        signed = path.with_name(f"signed{path.suffix}")
        with path.open("rb") as source, signed.open("w+b") as to:
            about = self._signer.write(source, to, path.suffix, claim(output.request, output.target))
        return (path, None) if about is None else (signed, about)


class _Shared:
    """A codec that threads take turns to use."""

    def __init__(self, codec: Codec) -> None:
        self._codec, self._turn = codec, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """As `Codec.encode`."""
        with self._turn:
            return self._codec.encode(frames)

    def decode_parts(self, parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """As `Codec.decode_parts`; others use the codec between two groups, and while it waits for a part."""
        groups = self._codec.decode_parts(self._awaited(iter(parts)))
        while True:
            with self._turn:
                group = next(groups, None)
            if group is None:
                return
            yield group

    def _awaited(self, parts: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        while True:
            self._turn.release()  # the decoder that asks for a part has it
            try:
                part = next(parts, None)
            finally:
                self._turn.acquire()
            if part is None:
                return
            yield part


async def _to_the_end(work: "asyncio.Future[T]") -> T:
    """The result of a thread's work; also a caller that is cancelled waits until it has ended."""
    try:
        return await asyncio.shield(work)
    finally:
        await asyncio.wait([work])
