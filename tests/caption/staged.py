"""Clips for the caption stage, and the end of its workers."""

import time
from collections.abc import Callable
from typing import Any

import psutil

from vitascope import storage


def clip(clip_id: str, uri: str, caption: str | None = None) -> dict[str, Any]:
    """The clip table's row of a still picture, except its status."""
    span = {"start_s": 0.0, "fps": 8.0, "n_frames": 1, "decoder": "pillow"}
    span |= {"crop_left": 0.0, "crop_top": 0.0, "crop_width": 1.0, "crop_height": 1.0}
    return {"clip_id": clip_id, "uri": uri, "version": storage.version(uri), "caption": caption, **span}


def kill_workers(name: str) -> list[int]:
    """Kill −9 for this session's processes whose name, as Ray gives it, begins so; their ids."""
    named = [process for process in psutil.process_iter() if process.name().startswith(name)]
    ours = [process for process in named if psutil.Process() in process.parents()]
    for process in ours:
        process.kill()
    return [process.pid for process in ours]


def wait_for(condition: Callable[[], bool], longest_s: float = 240) -> None:
    deadline = time.monotonic() + longest_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
