"""Thumbnails and sprite sheets."""

import io
import math

import numpy as np
from PIL import Image

from vitascope import storage
from vitascope.api.store.records import Job
from vitascope.media.clip import Clip

TYPES = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}
"""The variants of a video's content, and their media types."""

_THUMBNAIL_PX, _SPRITE_PX, _MOST_SPRITES = 480, 160, 25


def preview(job: Job, uri: str, variant: str) -> str:
    """The location of a preview of a job's video at `uri`, which is made when it is first asked for."""
    location = storage.join(uri.rpartition("/")[0], f"{variant}.{TYPES[variant].partition('/')[2]}")
    if not storage.exists(location):
        storage.put(location, _content(job, uri, variant))
    return location


def _content(job: Job, uri: str, variant: str) -> bytes:
    request = job.request
    clip = Clip(uri, "pyav", 0.0, request.fps, n_frames=request.size.n_frames)
    if variant == "thumbnail":
        picture, form = Image.fromarray(clip.frames(1, _THUMBNAIL_PX)[0]), "WEBP"
    else:
        picture, form = Image.fromarray(_sheet(clip.frames(_MOST_SPRITES, _SPRITE_PX))), "JPEG"
    file = io.BytesIO()
    picture.save(file, form, quality=80)
    return file.getvalue()


def _sheet(frames: np.ndarray) -> np.ndarray:
    """uint8 (F, H, W, 3) as one picture, row by row; what is left of the last row is black."""
    n, height, width, _ = frames.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cells = np.zeros((rows * columns, height, width, 3), np.uint8)
    cells[:n] = frames
    return cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, -1, 3)
