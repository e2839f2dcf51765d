"""Small pictures of clips, made by Ray."""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray.data
from PIL import Image

from vitascope import progress
from vitascope.cluster.local import connect
from vitascope.cluster.placement import place
from vitascope.config import Settings
from vitascope.ledger import Rejected
from vitascope.media.clip import COLUMNS, Clip
from vitascope.media.geometry import shrunk
from vitascope.report.dataset import Row
from vitascope.storage import Unavailable

SIDE_PX = 240
MOVING_FRAMES = 8
MOST_BYTES = {False: 12_000, True: 48_000}
"""Of a still picture and of a moving one; noise, which takes several times as much, gets a poorer quality."""

_QUALITIES = ((75, 1), (50, 1), (30, 1), (10, 1), (10, 2), (10, 4))  # of WebP, and every nth pixel
_FASTEST_S, _SLOWEST_S = 0.05, 0.25  # a frame; a long clip runs faster than it is
_AT_ONCE = 4  # thumbnails a task
_CLIP = (*COLUMNS, "end_s", "width", "height")


@dataclass(frozen=True)
class Wanted:
    """A picture to make: of a row of clips.table.CLIPS, as encode reads it; of the whole clip if `moving`."""

    clip: Row
    moving: bool = False


@dataclass(frozen=True)
class Thumbnail:
    """WebP files of a clip: its middle frame, and the whole clip moving if that was asked for.

    No `still` if the clip cannot be read; `detail` then says why.
    """

    still: bytes | None = None
    moving: bytes | None = None
    detail: str = ""


def looks(pictures: Iterable[Wanted], timeout_s: float) -> Iterator[Thumbnail]:
    """Makes each picture.

    Whatever a file does costs its own picture and no more. Once the store has not answered, the clips that
    follow are not asked for, since each would wait for minutes.
    """
    away = ""
    for wanted in pictures:
        try:
            yield Thumbnail(detail=away) if away else _look(wanted, timeout_s)
        except Unavailable as error:
            away = f"the store does not answer: {error}"
            yield Thumbnail(detail=away)
        except Rejected as rejected:
            yield Thumbnail(detail=f"{rejected.reason.replace('_', ' ')}: {rejected.detail}")
        except Exception as error:
            yield Thumbnail(detail=f"{type(error).__name__}: {error}")


def _look(wanted: Wanted, timeout_s: float) -> Thumbnail:
    clip, moving = wanted.clip, wanted.moving
    size = shrunk((clip["height"], clip["width"]), SIDE_PX)
    frames = Clip.of_row(clip).frames(MOVING_FRAMES if moving else 1, size, timeout_s=timeout_s)
    seconds = clip["end_s"] - clip["start_s"]
    return Thumbnail(webp(frames[len(frames) // 2 :][:1]), webp(frames, seconds) if moving else None)


def thumbnails(wanted: Mapping[str, Wanted], settings: Settings) -> dict[str, Thumbnail]:
    """Makes a picture for every key of `wanted`, on the cluster."""
    if not wanted:
        return {}
    connect(settings.cluster)
    in_order = sorted(wanted.items(), key=lambda item: (item[1].clip["uri"], item[1].clip["start_s"]))
    todo = [
        {"key": name, "moving": w.moving, "clip": {column: w.clip[column] for column in _CLIP}}
        for name, w in in_order
    ]
    tasks = [{"todo": todo[i : i + _AT_ONCE]} for i in range(0, len(todo), _AT_ONCE)]
    rows = place(ray.data.from_items(tasks, override_num_blocks=len(tasks)), settings, "data")
    made = rows.flat_map(_decode, fn_kwargs={"timeout_s": settings.clips.decode_timeout_s}, num_cpus=1)
    found = {}
    with progress.track(len(todo), "thumbnails") as advance:
        for row in made.iter_rows():
            name = row.pop("key")
            found[name] = Thumbnail(**row)
            advance()
    return found


def _decode(work: dict[str, Any], *, timeout_s: float) -> Iterator[dict[str, Any]]:
    todo = work["todo"]
    found = looks((Wanted(row["clip"], row["moving"]) for row in todo), timeout_s)
    for row, picture in zip(todo, found, strict=True):
        yield {"key": row["key"], **asdict(picture)}


def webp(frames: np.ndarray, seconds: float = 0.0) -> bytes:
    """A picture of frames (F H W 3) uint8, RGB; of several one that moves, in `seconds` or nearly so.

    It has the best quality that keeps to MOST_BYTES.
    """
    a_frame_ms = round(1000 * min(max(seconds / len(frames), _FASTEST_S), _SLOWEST_S))
    for quality, step in _QUALITIES:
        first, *others = map(Image.fromarray, frames[:, ::step, ::step])
        moving = {"save_all": True, "append_images": others, "duration": a_frame_ms, "loop": 0}
        sink = io.BytesIO()
        first.save(sink, "WEBP", quality=quality, **(moving if others else {}))
        if sink.tell() <= MOST_BYTES[bool(others)]:
            break
    return sink.getvalue()
