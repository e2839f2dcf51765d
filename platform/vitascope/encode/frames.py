"""Decode the clips of one shard."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import groupby

import numpy as np
import pyarrow as pa

from vitascope import records
from vitascope.encode.plan import Drop, EncodeTask, tasks_of
from vitascope.ledger import Rejected


def decode_shard(plan: pa.Table, *, timeout_s: float, nvdec: bool) -> pa.Table:
    """The one row of `plan` with its clips' frames, at the sizes they are encoded at.

    Adds `pixels`, the frames (F H W 3, uint8) of all tasks that succeeded, one after the other; `decoded`,
    the numbers of those tasks; and `drops`, rows of records.DROPS for the others. A clip is decoded once for
    all its sizes; if that fails, once for each, because a shorter one may end before the damage.

    Args:
        nvdec: videos are decoded by the GPU.

    Raises:
        NoDevice: `nvdec` is set, and the machine has no such GPU.
    """
    tasks = tasks_of(plan)
    if nvdec:
        tasks = [task if task.decoder == "pillow" else replace(task, decoder="nvdec") for task in tasks]
    pixels = _room(sum(task.n_bytes for task in tasks))
    decoded, drops, end = [], [], 0
    numbered = groupby(enumerate(tasks), key=lambda item: item[1].clip_id)
    for group in (list(items) for _, items in numbered):
        for (number, task), frames in zip(group, _frames([t for _, t in group], timeout_s), strict=True):
            if isinstance(frames, Rejected):
                drops.append(Drop.of(task.clip_id, task.name, frames))
                continue
            pixels[end : end + frames.size] = frames.reshape(-1)
            decoded.append(number)
            end += frames.size
    columns = {
        "pixels": _large_value(pixels[:end]),
        "decoded": pa.array([decoded], pa.list_(pa.int32())),
        "drops": pa.array([[asdict(drop) for drop in drops]], pa.list_(pa.struct(list(records.DROPS)))),
    }
    for name, column in columns.items():
        plan = plan.append_column(name, column)
    return plan


def frames_of(row: pa.Table, tasks: list[EncodeTask]) -> Iterator[tuple[EncodeTask, np.ndarray]]:
    """The tasks that were decoded in the one row of `row`, each with a copy of its frames (F H W 3)."""
    pixels, end = pixels_of(row), 0
    for number in row["decoded"][0].as_py():
        task = tasks[number]
        begin, end = end, end + task.n_bytes
        yield task, pixels[begin:end].reshape(task.n_frames, task.height, task.width, 3).copy()


def pixels_of(row: pa.Table) -> np.ndarray:
    """The pixels of the one row of `row`, uint8 (n,), in place: a scalar's `as_buffer` would be a copy."""
    column = next(chunk for chunk in row["pixels"].chunks if len(chunk))
    _, offsets, content = column.buffers()
    begin, end = np.frombuffer(offsets, np.int64)[column.offset :][:2]
    return np.frombuffer(content, np.uint8)[begin:end]


def _frames(tasks: list[EncodeTask], timeout_s: float) -> list[np.ndarray | Rejected]:
    """The frames of a clip at each of its sizes, or the error of that size."""
    try:
        return list(tasks[0].clip.views([task.view for task in tasks], timeout_s=timeout_s))
    except Rejected as error:
        if len(tasks) == 1:
            return [error]
        return [frames for task in tasks for frames in _frames([task], timeout_s)]


_kept = np.empty(0, np.uint8)


def _room(n_bytes: int) -> np.ndarray:
    """Reuses the previous shard's buffer if nothing references it; page faults on fresh memory cost more.

    A process keeps the buffer of its largest shard, also between tasks, when Ray counts no memory for it.
    Not thread-safe: Ray runs one task in a process at a time.
    """
    global _kept
    if _kept.size < n_bytes or sys.getrefcount(_kept) > 2:  # this module's, and the call's own
        _kept = np.empty(n_bytes, np.uint8)
    return _kept[:n_bytes]


def _large_value(content: np.ndarray) -> pa.Array:
    """An Arrow column of one value, without a copy."""
    offsets = pa.py_buffer(np.array([0, content.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(content)])
