"""Plan what is encoded, and into which shard."""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from vitascope import storage
from vitascope.encode.buckets import Limits, check_table, sizes_of
from vitascope.encode.settings import EncodeSettings
from vitascope.ledger import Rejected, Status
from vitascope.media.clip import CROP, Clip
from vitascope.media.geometry import Crop, View
from vitascope.records import VideoSize, stable_id, stable_int


@dataclass(frozen=True, slots=True)
class EncodeTask:
    """A clip to encode at a size: all that the work needs."""

    sample_id: int
    clip_id: str
    name: str
    uri: str
    version: str
    kind: str
    start_s: float
    fps: float
    decoder: str
    split: str
    caption: str
    n_frames: int  # the bucket, in pixels
    height: int
    width: int
    n_tokens: int
    crop_left: float = 0.0  # the picture within its bars, in fractions of the sides
    crop_top: float = 0.0
    crop_width: float = 1.0
    crop_height: float = 1.0

    @property
    def size(self) -> VideoSize:
        """The bucket."""
        return VideoSize(self.n_frames, self.height, self.width)

    @property
    def n_bytes(self) -> int:
        """Of its frames, uint8 RGB."""
        return 3 * self.n_frames * self.height * self.width

    @property
    def clip(self) -> Clip:
        """The clip, to be read."""
        return Clip(
            self.uri, self.decoder, self.start_s, self.fps, self.n_frames, self.view.crop, self.version
        )

    @property
    def view(self) -> View:
        """The clip as it is encoded."""
        crop = Crop(self.crop_left, self.crop_top, self.crop_width, self.crop_height)
        return View(self.n_frames, (self.height, self.width), crop)


@dataclass(frozen=True)
class Drop:
    """A clip without a sample, or without one at some size, and why: a row of records.DROPS."""

    clip_id: str
    name: str
    reason: str
    detail: str
    status: str = str(Status.DROPPED)

    @classmethod
    def of(cls, clip_id: str, name: str, error: Rejected) -> "Drop":
        """The drop of a clip that was rejected."""
        return cls(clip_id, name, str(error.reason), error.detail)


@dataclass(frozen=True)
class StoredCaption:
    """A caption whose text states are stored: with a sample, or without a shard in a file of its own."""

    caption: str
    latents: str
    shard: int | None = None
    row: int = 0


@dataclass(frozen=True)
class PlannedShard:
    """A shard to write. stored: those of its captions that need not be encoded."""

    number: int
    tasks: list[EncodeTask]
    stored: Sequence[StoredCaption] = ()

    @cached_property
    def key(self) -> str:
        """Differs from that of a shard with the same number that an earlier plan left behind."""
        return stable_id(*((task.sample_id, task.caption) for task in self.tasks))

    @property
    def n_bytes(self) -> int:
        """Of its frames, uint8 RGB."""
        return sum(task.n_bytes for task in self.tasks)

    def as_row(self) -> dict[str, Any]:
        """The work: `shard`, `key`, and `tasks` and `stored` for `tasks_of` and `stored_in`."""
        tasks, stored = (
            storage.stream_bytes(pa.Table.from_pylist(list(map(asdict, of))))
            for of in (self.tasks, self.stored)
        )
        return {"shard": self.number, "key": self.key, "tasks": tasks, "stored": stored}


def tasks_of(work: pa.Table) -> list[EncodeTask]:
    """The tasks in a table of one row, `PlannedShard.as_row`."""
    return [EncodeTask(**task) for task in storage.read_stream(work["tasks"][0].as_py()).to_pylist()]


def stored_in(work: pa.Table) -> list[StoredCaption]:
    """The stored captions of a table of one row, `PlannedShard.as_row`."""
    return [StoredCaption(**one) for one in storage.read_stream(work["stored"][0].as_py()).to_pylist()]


def make_tasks(
    clips: Iterable[dict[str, Any]], settings: EncodeSettings, limits: Limits
) -> tuple[list[EncodeTask], list[Drop]]:
    """The tasks of the usable rows of a clip table, by source and time, and a drop for each rejected size.

    A clip has a task for each of its sizes; a size with too many tokens is a drop. Clips that the clips stage
    dropped are in its own ledger and are skipped here.

    Raises:
        ValueError: a fixed bucket has sides that the strides do not divide, or more tokens than a pack holds.
    """
    check_table(settings, limits)
    tasks, drops = [], []
    for clip in clips:
        if clip["status"] != Status.OK:
            continue
        for outcome in sizes_of(VideoSize(clip["n_frames"], clip["height"], clip["width"]), settings, limits):
            if isinstance(outcome, Rejected):
                drops.append(Drop.of(clip["clip_id"], clip["name"], outcome))
            else:
                tasks.append(_task(clip, *outcome))
    return sorted(tasks, key=_place), drops


def _place(task: EncodeTask) -> tuple[Any, ...]:
    return task.uri, task.start_s, task.clip_id, -task.n_tokens, task.sample_id


def _task(clip: dict[str, Any], size: VideoSize, n_tokens: int) -> EncodeTask:
    crop = {key: clip[key] for key in CROP}
    shared: dict[str, Any] = {key: sys.intern(clip[key]) for key in _SHARED}
    whole = tuple(crop.values()) == (0, 0, 1, 1)
    return EncodeTask(
        sample_id=stable_int(clip["clip_id"], size, *(() if whole else crop.values())),
        caption=clip["caption"] or "",
        n_frames=size.n_frames,
        height=size.height,
        width=size.width,
        n_tokens=n_tokens,
        **crop,
        **{key: clip[key] for key in ("clip_id", "start_s", "fps")},
        **shared,
    )


_SHARED = ("name", "uri", "version", "kind", "decoder", "split")
"""Texts that many clips share; with millions of clips, each is kept once."""


def plan_shards(tasks: Sequence[EncodeTask], shard_tokens: int) -> list[list[EncodeTask]]:
    """Cuts tasks into shards of about equal work, on average of at most `shard_tokens`; none is empty.

    The clips of a source are neighbours, so that one process or few read it from beginning to end, and all
    sizes of a clip are in one shard. So no shard has more work than the mean plus one clip's. The same tasks
    in any order give the same shards.
    """
    clips = [list(sizes) for _, sizes in groupby(sorted(tasks, key=_place), key=lambda task: task.clip_id)]
    if not clips:
        return []
    work = np.cumsum([0] + [sum(task.n_tokens for task in clip) for clip in clips])
    n_shards = min(len(clips), math.ceil(work[-1] / shard_tokens))
    shards: list[list[EncodeTask]] = [[] for _ in range(n_shards)]
    middles = (work[:-1] + work[1:]) / 2
    for clip, shard in zip(clips, (middles * n_shards // work[-1]).astype(int).tolist(), strict=True):
        shards[shard] += clip
    return [shard for shard in shards if shard]


def still_to_do(tasks: Sequence[EncodeTask], samples: pa.Table) -> tuple[list[EncodeTask], pa.Table]:
    """The tasks without a committed sample, and the records.SAMPLES that stay, in order.

    A sample stays while its clip is in the table with the same bucket and caption; its name and split follow
    the table.
    """
    open_tasks = {task.sample_id: task for task in tasks}
    answered: list[EncodeTask] = []
    stay = np.zeros(len(samples), bool)
    for number, sample in enumerate(storage.iter_rows(samples.select(["sample_id", "caption"]))):
        task = open_tasks.get(sample["sample_id"])
        if task and task.caption == sample["caption"]:
            answered.append(open_tasks.pop(task.sample_id))
            stay[number] = True
    kept = samples.filter(pa.array(stay))
    for name in ("name", "split"):
        texts = pa.array([getattr(task, name) for task in answered], pa.string())
        kept = kept.set_column(kept.schema.get_field_index(name), kept.schema.field(name), texts)
    return list(open_tasks.values()), kept
