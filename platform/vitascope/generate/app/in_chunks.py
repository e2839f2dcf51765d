"""A long video, chunk by chunk."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitascope.encode.buckets import Patching
from vitascope.generate import finished
from vitascope.generate.app.values import Denoised, Given, Text
from vitascope.generate.chunks import N_KEPT, Chunk, after, alone, chunks_of
from vitascope.generate.finished import Made
from vitascope.generate.opened import Target
from vitascope.generate.request import Request
from vitascope.generate.sidecar import NOTHING, Spent


async def in_chunks(
    request: Request,
    text: Text,
    first: Given | None,
    target: Target,
    *,
    patching: Patching,
    denoise: Callable[..., Any],
) -> AsyncGenerator[Denoised, None]:
    """The chunks of a video, one after the other, each without the frames that it was given.

    Each is a request of its own, that shares passes with others and may go to any replica. The next one is in
    work while the caller uses the last. Chunks are kept as they finish, and those that were kept not made
    again.

    Args:
        first: the conditioning latent of the first chunk, None without conditioning frames.
        denoise: makes a chunk of a request, text and conditioning latent, and answers as a handle does.
    """
    make = _Make(request, text, target, patching, denoise)
    chunks = chunks_of(request, patching)
    before = {"text": text.spent} | ({"conditioning": first.spent} if first else {})
    so_far: np.ndarray | None = None
    pending = asyncio.create_task(make(chunks[0], first))
    try:
        for following in (*chunks[1:], None):
            made = await pending
            so_far = made.latent if so_far is None else np.concatenate([so_far, made.latent])
            if following:
                pending = asyncio.create_task(make(following, given(following, so_far)))
                so_far = np.concatenate([so_far[:N_KEPT], so_far[-following.n_before :]])
            spent = before | {"denoise": Spent(made.waited_s, made.worked_s)}
            yield Denoised(made.latent, text.n_tokens, spent, made.device_s)
    finally:
        pending.cancel()
        await asyncio.wait([pending])


def given(chunk: Chunk, so_far: np.ndarray) -> Given:
    """The conditioning latent of a chunk's window, from the latents (t, h, w, C) before it."""
    latent = np.zeros((chunk.n_window, *so_far.shape[1:]), np.float32)
    latent[:N_KEPT] = so_far[:N_KEPT]
    latent[N_KEPT : chunk.n_given] = so_far[-chunk.n_before :]
    return Given(latent, np.arange(chunk.n_window) < chunk.n_given, NOTHING, Spent(0.0, 0.0))


@dataclass(frozen=True)
class _Make:
    """Makes chunks of a request, unless they were made before."""

    request: Request
    text: Text
    target: Target
    patching: Patching
    denoise: Callable[..., Any]

    async def __call__(self, chunk: Chunk, given: Given | None) -> Made:
        if made := await asyncio.to_thread(finished.kept, self.target.location, chunk):
            return made
        part, later = alone(self.request, chunk, self.patching), after(chunk, self.request, self.patching)
        response = self.denoise(part, text=self.text, given=given, later=later)
        try:
            denoised = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        latent, spent = np.ascontiguousarray(denoised.latent[chunk.n_given :]), denoised.spent["denoise"]
        made = Made(latent, spent.waited, spent.worked, denoised.device_s)
        await asyncio.to_thread(finished.keep, self.target.location, chunk, made)
        return made
