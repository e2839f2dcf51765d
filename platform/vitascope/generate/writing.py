"""Writes an output's file while its latents are made."""

import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import torch

from vitascope.clips.filters import HookFilter
from vitascope.encode.buckets import Patching
from vitascope.encode.codecs import Codec
from vitascope.generate import conditions
from vitascope.generate.layout import layout
from vitascope.generate.request import Request
from vitascope.generate.sidecar import NOTHING, Compared, Kept, Spent
from vitascope.media import mp4
from vitascope.prompts.screen import screened

_ALL_PASS = HookFilter()


class Stopped(Exception):
    """The writing was stopped: its output is not wanted any more."""


class Latents:
    """The latents of an output on their way from the thread that has them made to the one that decodes them.

    Iterating waits for the next part, then for `turn`, which is held until the part after it is asked for: of
    all that share a turn, one decodes at a time, and none while it waits for latents.
    """

    def __init__(self, turn: threading.Lock) -> None:
        self._turn = turn
        self._parts: SimpleQueue[tuple[torch.Tensor, Future[None]] | None] = SimpleQueue()
        self._stopped = threading.Event()
        self.waited_s = 0.0

    def add(self, part: np.ndarray) -> "Future[None]":
        """Passes the next latents (t, h, w, C) on; the future is done when they are decoded and written."""
        used: Future[None] = Future()
        self._parts.put((torch.tensor(part), used))
        return used

    def end(self) -> None:
        """No more latents will come."""
        self._parts.put(None)

    def stop(self) -> None:
        """Ends the work on them, with Stopped, at the next frame."""
        self._stopped.set()
        self.end()

    def check(self) -> None:
        """Raises Stopped once it was stopped."""
        if self._stopped.is_set():
            raise Stopped("the output is not wanted any more")

    def __iter__(self) -> Generator[torch.Tensor, None, None]:
        while item := self._next():
            part, used = item
            try:
                yield part
            finally:
                self._turn.release()
                used.set_result(None)

    def _next(self) -> tuple[torch.Tensor, "Future[None]"] | None:
        """The next part, and the turn, unless there is none."""
        started = time.monotonic()
        item = self._parts.get()
        if item:
            self._turn.acquire()
        self.waited_s += time.monotonic() - started
        return item


@dataclass(frozen=True)
class Written:
    """A finished file, what decoding and encoding took, and what the codec left of conditioning frames."""

    path: Path
    spent: dict[str, Spent]
    psnr_db: float | None


def write(
    latents: Latents,
    request: Request,
    kept: Kept = NOTHING,
    *,
    codec: Codec,
    patching: Patching,
    stem: Path,
    frames: HookFilter = _ALL_PASS,
) -> Written:
    """Decodes latents as they come and writes the output to `stem` and a suffix; blocks until it is whole.

    In memory are one part of the latents, the frames of a latent frame, and what codec and encoder keep.

    Args:
        frames: what refuses frames.

    Raises:
        Stopped: it was stopped.
        Rejected: FRAMES_REFUSED.
    """
    started, decoding_s = time.monotonic(), 0.0

    def decoded(groups: Iterator[torch.Tensor]) -> Iterator[np.ndarray]:
        nonlocal decoding_s
        while True:
            begun = time.monotonic()
            group = next(groups, None)
            decoding_s += time.monotonic() - begun
            if group is None:
                return latents.check()
            for frame in group.cpu().numpy():
                latents.check()
                yield frame

    # Closed, the parts give back the turn; a traceback would keep them alive.
    with closing(iter(latents)) as parts:
        every = decoded(codec.decode_parts(parts))
        shown = screened(conditions.crop(every, request, layout(request, patching)), frames)
        compared = Compared(shown, kept)
        path = mp4.write_media(stem, compared, request.fps)
    passed_s = time.monotonic() - started
    decoding = Spent(latents.waited_s, decoding_s - latents.waited_s)
    return Written(path, {"decode": decoding, "encode": Spent(0.0, passed_s - decoding_s)}, compared.psnr_db)
