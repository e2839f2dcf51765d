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
from vitascope.storage import Unavailable

SIDE_PX = 240
MOVING_FRAMES = 8
MOST_BYTES = {False: 12_000, True: 48_000}
"""Of a still picture and of a moving one; noise, which takes several times as much, gets a poorer quality."""

_QUALITIES = ((75, 1), (50, 1), (30, 1), (10, 1), (10, 2), (10, 4))  # of WebP, and every nth pixel
_FASTEST_S, _SLOWEST_S = 0.05, 0.25  # a frame; a long clip runs faster than it is
_AT_ONCE = 4  # thumbnails a task
_CLIP = (*COLUMNS, "end_s", "width", "height")

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Thumbnail:
    """WebP files of a clip: its middle frame, and the whole clip moving if that was asked for.

    No `still` if the clip cannot be read; `detail` then says why.
    """

    still: bytes | None = None
    moving: bytes | None = None
    detail: str = ""


def looks(clips: Iterable[tuple[_Row, bool]], timeout_s: float) -> Iterator[Thumbnail]:
    """A picture of each clip, a row of table.CLIPS with whether it is to move; as encode reads it.

    Whatever a file does costs its own picture and no more. Once the store has not answered, the clips that
    follow are not asked for, since each would wait for minutes.
    """
    away = ""
    for clip, moving in clips:
        try:
            yield Thumbnail(detail=away) if away else _look(clip, moving, timeout_s)
        except Unavailable as error:
            away = f"the store does not answer: {error}"
            yield Thumbnail(detail=away)
        except Rejected as rejected:
            yield Thumbnail(detail=f"{rejected.reason.replace('_', ' ')}: {rejected.detail}")
        except Exception as error:
            yield Thumbnail(detail=f"{type(error).__name__}: {error}")


def _look(clip: _Row, moving: bool, timeout_s: float) -> Thumbnail:
    frames = _frames(clip, MOVING_FRAMES if moving else 1, timeout_s)
    seconds = clip["end_s"] - clip["start_s"]
    return Thumbnail(webp(frames[len(frames) // 2 :][:1]), webp(frames, seconds) if moving else None)


def thumbnails(wanted: Mapping[str, tuple[_Row, bool]], settings: Settings) -> dict[str, Thumbnail]:
    """Decodes a picture for every key of `wanted`: a row of table.CLIPS, and whether it is to move."""
    if not wanted:
        return {}
    connect(settings.cluster)
    todo = sorted(
        (
            {"key": k, "moving": m, "clip": {column: row[column] for column in _CLIP}}
            for k, (row, m) in wanted.items()
        ),
        key=_place,
    )
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


def _place(wanted: _Row) -> tuple[str, float]:
    return wanted["clip"]["uri"], wanted["clip"]["start_s"]


def _decode(work: dict[str, Any], *, timeout_s: float) -> Iterator[dict[str, Any]]:
    todo = work["todo"]
    found = looks([(wanted["clip"], wanted["moving"]) for wanted in todo], timeout_s)
    for wanted, picture in zip(todo, found, strict=True):
        yield {"key": wanted["key"], **asdict(picture)}


def _frames(clip: _Row, n_frames: int, timeout_s: float) -> np.ndarray:
    """At most so many frames of a clip, at even distances, small: uint8 (F, H, W, 3)."""
    size = shrunk((clip["height"], clip["width"]), SIDE_PX)
    return Clip.of_row(clip).frames(n_frames, size, timeout_s=timeout_s)


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
