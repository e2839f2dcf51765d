"""What the tests have a decoding process do."""

import hashlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from vitascope.clips.analysis import scan, series
from vitascope.ledger import Reason, Rejected
from vitascope.media import clip, readers
from vitascope.media.clip import Clip


def pid() -> int:
    return os.getpid()


def hang() -> None:
    time.sleep(600)


def spin(seconds: float = 600.0, threads: int = 1) -> float:
    """Uses so much processor time; with several threads, all together."""
    begun = time.process_time()

    def work() -> None:
        while time.process_time() - begun < seconds:
            hashlib.sha256(bytes(1 << 20))  # without the interpreter's lock

    others = [threading.Thread(target=work) for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    return time.process_time() - begun


def late_once(*, clip: Clip, **how: Any) -> series.Series:
    """Never ends the first time that it is asked for a file."""
    mark = Path(f"{clip.uri}.late")
    if not mark.exists():
        mark.touch()
        spin()
    return scan.stretch(clip=clip, **how)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def reject() -> None:
    raise Rejected(Reason.DECODE_FAILED, "as told")


def zeros(n: int) -> np.ndarray:
    return np.zeros(n, np.uint8)


def counting(sizes: list[int]) -> list[np.ndarray]:
    """Arrays of so many numbers that count from 0, the second of them from 1, the third from 2."""
    return [np.arange(begin, begin + size, dtype=np.int32) for begin, size in enumerate(sizes)]


def cache_hits() -> int:
    return clip._reader.cache_info().hits


def hoard(n_bytes: int) -> None:
    _hoarded.append(np.ones(n_bytes, np.uint8))


_hoarded: list[np.ndarray] = []


def stretch(
    *, first: int, n_frames: int, long_side: int | None = None, **what: Any
) -> list[np.ndarray | None]:
    """The frames of a stretch, brought out of the child."""
    frames = clip.Clip(**what).stream(first, n_frames, long_side=long_side)
    return [None if seen is None else seen.views[0].copy() for seen in frames]


def seeks(**what: Any) -> int:
    """How often reading a stretch seeks."""
    with mock.patch.object(readers.PyavReader, "_seek", autospec=True) as seek:
        seek.side_effect = _seek
        stretch(**what)
        return seek.call_count


_seek = readers.PyavReader._seek
