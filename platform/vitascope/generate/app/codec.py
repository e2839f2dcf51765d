"""Media to conditioning latents, and latents to committed files."""

import asyncio
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from ray.exceptions import RayTaskError

from vitascope import storage
from vitascope.encode.codecs import make_codec
from vitascope.generate import conditions, finished, media, writing
from vitascope.generate.app.in_chunks import in_chunks
from vitascope.generate.app.values import Denoised, Text, device
from vitascope.generate.changes import changes
from vitascope.generate.chunks import chunks_of
from vitascope.generate.opened import Target
from vitascope.generate.request import Request
from vitascope.generate.sidecar import Conditioning, conditioning, put_conditioning, sidecar
from vitascope.generate.starting import starting
from vitascope.generate.writing import Latents, Written
from vitascope.ledger import Rejected
from vitascope.model.formats.card import ModelCard

_MOST_LONG = 4
"""Long videos in work at a time: each keeps the features of a causal codec, gigabytes at 720p."""
_MOST_THREADS = 256  # requests that a replica takes at once, and more

Canvas = tuple[np.ndarray, np.ndarray, list[Conditioning]]
"""Latent (T, h, w, C) and mask (T,) of conditioning frames, and their sources."""

T = TypeVar("T")


class Part(NamedTuple):
    """What the sidecar takes from `Denoised`, of which a long video has many."""

    seconds: float
    n_text: tuple[int, int]


class DecodeWrite:
    """Media to conditioning latents, and latents to committed files: the work that needs the codec.

    Takes many requests at once. One at a time uses the codec; a long video only while it has latents.
    """

    def __init__(self, card: ModelCard, gpus: float = 0, denoise: Any = None) -> None:
        """`denoise`: the handle that makes the chunks of long videos."""
        with starting("the codec"):
            self._codec = make_codec(card.encode, device(gpus))
        self._patching, self._most_text = card.patching, card.encode.max_text_tokens
        self._denoise = denoise
        self._turn, self._long = threading.Lock(), asyncio.Semaphore(_MOST_LONG)
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "codec")

    async def canvas(self, request: Request) -> Canvas:
        """The request's conditioning latent, and the frames it is from."""
        return await _to_the_end(self._thread(self._canvas, request))

    def _canvas(self, request: Request) -> Canvas:
        with self._turn:
            place, frames = media.read_given(request, self._patching)
            canvas = conditions.canvas(place, frames, self._codec)
        return canvas.latent.numpy(), canvas.given.numpy(), conditioning(request, place, frames)

    async def write(
        self, request: Request, denoised: Denoised, canvas: Canvas | None, target: Target
    ) -> dict[str, object]:
        """Decodes, encodes and commits the output, then creates the sidecar and returns it.

        The sidecar marks the request as finished. If attempts race, one creates it, and all return that one.
        """

        async def only() -> AsyncGenerator[Denoised, None]:
            yield denoised

        return await self._written(request, only(), canvas, target)

    async def write_long(
        self, request: Request, text: Text, canvas: Canvas | None, target: Target
    ) -> dict[str, object]:
        """The same of a long video, whose chunks it has made: one is decoded while the next is made.

        Finished chunks are kept until the output is committed, or refused, or cancelled: after any other
        failure, the request sent again continues after them.

        Raises:
            Rejected: why a chunk cannot be made.
        """
        chunks = chunks_of(request, self._patching)
        try:
            async with self._long:
                how = {"patching": self._patching, "denoise": self._denoise}
                made = in_chunks(request, text, canvas, target, **how)
                document = await self._written(request, made, canvas, target)
        except (asyncio.CancelledError, Rejected, RayTaskError) as error:
            cause = getattr(error, "cause", error)
            if isinstance(cause, asyncio.CancelledError | Rejected):
                await asyncio.to_thread(finished.forget, target.location, chunks)
                raise cause from None
            raise
        await asyncio.to_thread(finished.forget, target.location, chunks)
        return document

    async def _written(
        self, request: Request, made: AsyncGenerator[Denoised, None], canvas: Canvas | None, target: Target
    ) -> dict[str, object]:
        """Writes the latents as they are made, and commits the output and its sidecar."""
        latents, parts = Latents(self._turn), list[Part]()
        with tempfile.TemporaryDirectory() as folder:
            file = self._thread(self._file, latents, request, Path(folder))
            try:
                async with aclosing(made) as chunks:
                    async for chunk in chunks:
                        parts.append(Part(chunk.seconds, chunk.n_text))
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
            commit = partial(self._commit, request, written, parts, canvas=canvas, target=target)
            return await _to_the_end(self._thread(commit))

    def _thread(self, function: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def _file(self, latents: Latents, request: Request, folder: Path) -> Written:
        """Writes the output's file as its latents come."""
        stem = folder / "output"
        return writing.write(latents, request, codec=self._codec, patching=self._patching, stem=stem)

    def _commit(
        self,
        request: Request,
        written: Written,
        parts: list[Part],
        *,
        canvas: Canvas | None,
        target: Target,
    ) -> dict[str, object]:
        """Commits the finished file, and then the sidecar."""
        started, suffix = time.monotonic(), written.path.suffix
        storage.put(target.location + suffix, written.path)
        timings = {
            "denoise": round(sum(part.seconds for part in parts), 3),
            "decode": round(written.decode_s, 3),
            "write": round(written.encode_s + time.monotonic() - started, 3),
        }
        about = {
            "changes": changes(request, self._patching, parts[0].n_text, self._most_text),
            **put_conditioning(target.location, canvas[2] if canvas else []),
        }
        document = sidecar(request, target, suffix, timings) | about
        if storage.create(target.location + ".json", storage.json_bytes(document)):
            return document
        return storage.read_json(target.location + ".json")


async def _to_the_end(work: "asyncio.Future[T]") -> T:
    """The result of a thread's work; also a caller that is cancelled waits until it has ended."""
    try:
        return await asyncio.shield(work)
    finally:
        await asyncio.wait([work])
