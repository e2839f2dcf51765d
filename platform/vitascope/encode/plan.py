"""Plan what is encoded, and into which shard."""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vitascope.encode.buckets import SPACE_STRIDE, check_table, choose, count_tokens
from vitascope.encode.settings import EncodeSettings
from vitascope.ledger import Reason, Rejected, Status
from vitascope.records import VideoSize, dropped, stable_int


@dataclass(frozen=True)
class EncodeTask:
    """A clip to encode at a size: everything the work needs, and nothing more."""

    sample_id: int
    clip_id: str
    name: str
    uri: str
    kind: str
    start_s: float
    fps: float
    rotation_deg: int
    decoder: str
    split: str
    caption: str
    n_frames: int  # the bucket, in pixels
    height: int
    width: int
    n_tokens: int

    @property
    def size(self) -> VideoSize:
        """The bucket."""
        return VideoSize(self.n_frames, self.height, self.width)

    def as_row(self) -> dict[str, Any]:
        """The task as a row of a plan; `EncodeTask(**row)` makes it again."""
        return asdict(self)


@dataclass(frozen=True)
class Limits:
    """What a sample has to keep to."""

    patch: int  # the model's patch, in latent pixels
    token_budget: int  # a pack's, so no sample can be larger


def make_tasks(
    clips: Iterable[dict[str, Any]], settings: EncodeSettings, limits: Limits
) -> tuple[list[EncodeTask], list[dict[str, Any]]]:
    """A task for each usable row of a clip table, by rising sample id, or a drop row that says why not.

    Clips that the clips stage dropped are in its own ledger and are passed over here.

    Raises:
        ValueError: a fixed bucket has sides that the strides do not divide, or more tokens than a pack holds.
    """
    check_table(settings.buckets or (), limits.patch, limits.token_budget)
    tasks, drops = [], []
    for clip in clips:
        if clip["status"] != Status.OK:
            continue
        try:
            tasks.append(_task(clip, settings, limits))
        except Rejected as error:
            drops.append(drop_row(clip["clip_id"], clip["name"], error))
    return sorted(tasks, key=lambda task: task.sample_id), drops


def drop_row(clip_id: str, name: str, error: Rejected) -> dict[str, Any]:
    """A row of records.DROPS."""
    return {"clip_id": clip_id, "name": name, **dropped(error.reason, error.detail)}


def _task(clip: dict[str, Any], settings: EncodeSettings, limits: Limits) -> EncodeTask:
    stride = SPACE_STRIDE * limits.patch
    size = choose(clip["width"], clip["height"], clip["n_frames"], settings, stride_px=stride)
    n_tokens = count_tokens(size, limits.patch)
    if n_tokens > limits.token_budget:
        raise Rejected(
            Reason.TOO_MANY_TOKENS,
            f"{size} makes {n_tokens} tokens, a pack holds {limits.token_budget} (feed.token_budget); "
            "lower encode.max_pixels or encode.frame_counts",
        )
    return EncodeTask(
        sample_id=stable_int(clip["clip_id"], size),
        caption=clip["caption"] or "",
        n_frames=size.n_frames,
        height=size.height,
        width=size.width,
        n_tokens=n_tokens,
        **{key: clip[key] for key in _COPIED},
    )


_COPIED = ("clip_id", "name", "uri", "kind", "start_s", "fps", "rotation_deg", "decoder", "split")


def plan_shards(tasks: Sequence[EncodeTask], shard_tokens: int) -> list[list[EncodeTask]]:
    """Cuts tasks into shards of about equal work, of `shard_tokens` or fewer on average; none is empty.

    Longest task first, each to the shard with least work so far, so no two shards differ by more than one
    task's work. Within a shard samples lie by id, which mixes sources and sizes. The same tasks
    in any order give the same shards.
    """
    ordered = sorted(tasks, key=lambda task: (-task.n_tokens, task.sample_id))
    n_shards = min(len(ordered), math.ceil(sum(task.n_tokens for task in ordered) / shard_tokens))
    shards: list[list[EncodeTask]] = [[] for _ in range(n_shards)]
    loads = [(0, shard) for shard in range(n_shards)]
    for task in ordered:
        load, shard = heapq.heappop(loads)
        shards[shard].append(task)
        heapq.heappush(loads, (load + task.n_tokens, shard))
    return [sorted(shard, key=lambda task: task.sample_id) for shard in shards]


def still_to_do(
    tasks: Sequence[EncodeTask], samples: Sequence[dict[str, Any]]
) -> tuple[list[EncodeTask], list[dict[str, Any]]]:
    """The tasks that no committed sample answers, and the samples that stay.

    A sample stays while its clip is in the table with the same bucket and caption; its name and split are
    taken from there.
    """
    wanted = {(task.sample_id, task.caption): task for task in tasks}
    stay = {(s["sample_id"], s["caption"]): s for s in samples if (s["sample_id"], s["caption"]) in wanted}
    kept = [{**s, "name": wanted[key].name, "split": wanted[key].split} for key, s in stay.items()]
    return [task for key, task in wanted.items() if key not in stay], kept
