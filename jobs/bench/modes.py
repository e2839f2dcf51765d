"""Every mode of generation, with a small model trained here, as contact sheets to look at and as figures.

    python jobs/bench/modes.py [--steps 300] [--threads 1] [--folder modes]

The model learns a disc and a square that move on ellipses over a gradient of colours, at two sizes, without
prompts, with the conditioning frames of train.conditioning_frames = "all". Then all requests, of every mode
at both sizes, with media that it has not seen, go through one engine together, as the app takes them: media
to conditioning latents, passes, decoding and writing. A sheet has a row for an output and one for its media;
conditioning frames have a white bar above them.

The last line is one JSON object. psnr_db: of conditioning frames, after the codec, by mode, the lowest.
seam_ratio: of a loop the mean absolute difference of its last and first frame, over the median of such steps
inside, and over the median of those from one latent frame to the next, of which it is one. join_ratio: the
first of these of the largest step between a conditioning and a made frame, in other modes. followed: of
video_to_video at strengths 0.3 and 0.9 and of image_to_image at 0.5, the PSNR of the output against its
source. model_psnr_db: of what is made in image_to_video, against the clip that goes on.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loops import Bare
from PIL import Image
from safetensors.torch import load_file, save_file

from vitascope.encode.codecs import make_codec, psnr_db
from vitascope.encode.settings import EncodeSettings
from vitascope.feed.packs import Pack, Segment, collate
from vitascope.feed.patches import grid_of, patchify
from vitascope.generate.app.codec import DecodeWrite
from vitascope.generate.app.values import Denoised, Given
from vitascope.generate.conditions import Canvas, blank
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import begin
from vitascope.generate.opened import Maker, Target
from vitascope.generate.parse import Limits, parse
from vitascope.generate.request import Request
from vitascope.generate.settings import GenerateSettings
from vitascope.generate.sidecar import Spent
from vitascope.media.clip import Clip
from vitascope.media.mp4 import mp4_bytes, png_bytes
from vitascope.media.probe import probe
from vitascope.model.flow import Draws
from vitascope.model.formats.card import ModelCard
from vitascope.model.settings import ModelSettings
from vitascope.train.settings import TrainSettings

SIZES = [(64, 64), (48, 80)]
LENGTHS = [1, 9, 17, 25]
FPS = 8
N_CLIPS = 240
PACK = 12  # samples
STEPS = 24
SEED_OF_MEDIA = 10_000
NO_TEXT = torch.zeros(0, 32)


def clip(seed: int, n_frames: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 (F, H, W, 3): two shapes that move on ellipses, once round in 16 to 40 frames."""
    rng = np.random.default_rng(seed)
    (height, width), t = size, np.arange(n_frames)[:, None, None]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ends = rng.uniform(0, 120, (2, 3)) + rng.uniform(0, 60)
    along = ((x / width + y / height) / 2)[..., None]
    frames = np.broadcast_to((1 - along) * ends[0] + along * ends[1], (n_frames, height, width, 3)).copy()
    for is_disc in (True, False):
        phase = 2 * np.pi * (rng.random() + rng.choice([-1, 1]) * t / rng.integers(16, 41))
        reach = rng.uniform(0.15, 0.32, 2)
        dy = y - height * (0.5 + reach[0] * np.sin(phase))
        dx = x - width * (0.5 + reach[1] * np.cos(phase))
        radius = rng.uniform(7, 12)
        far = np.hypot(dy, dx) if is_disc else np.maximum(np.abs(dy), np.abs(dx))
        cover = np.clip(radius - far + 0.5, 0, 1)[..., None]
        frames = (1 - cover) * frames + cover * rng.uniform(90, 255, 3)
    return frames.round().astype(np.uint8)


class Training:
    """The packs of a small model, and the model."""

    def __init__(self) -> None:
        encode = EncodeSettings(dct_channels=80)
        self.codec = make_codec(encode)
        self.card = ModelCard(
            model=ModelSettings(depth=3, width=128, heads=4, patch=2),
            encode=encode,
            channels=80,
            text_dim=32,
            fingerprint="modes",
            timestep_shift=4.0,
            step=0,
        )
        self._draws = Draws(0, 1.0, self.card.shift)
        self._samples: list[torch.Tensor] = []
        for seed in range(N_CLIPS):
            frames = clip(seed, LENGTHS[seed % 4], SIZES[seed // 4 % 2])
            self._samples.append(self.codec.encode(torch.from_numpy(frames)))

    def packs(self) -> Iterator[Pack]:
        """Without end; the samples of an epoch in another order each."""
        for epoch in range(10**6):
            order = np.random.default_rng(epoch).permutation(N_CLIPS)
            for numbers in np.array_split(order, N_CLIPS // PACK):
                yield collate([self._segment(int(number), epoch) for number in numbers])

    def _segment(self, number: int, epoch: int) -> Segment:
        latent = self._samples[number]
        grid = grid_of(tuple(latent.shape[:3]), 2)
        draw = self._draws(number, epoch, grid)
        levels = torch.from_numpy(draw.timesteps)
        return Segment(patchify(latent, 2), grid, levels, NO_TEXT, number, draw.noise_key)

    def model(self, n_steps: int) -> torch.nn.Module:
        """The network, after so many steps."""
        torch.manual_seed(0)
        network = self.card.build()
        loop = Bare(network, TrainSettings(lr=2e-3, ema_decay=0.98), with_ema=True)
        started = time.process_time()
        for step, pack in zip(range(n_steps), self.packs(), strict=False):
            for group in loop.optimizer.param_groups:
                group["lr"] = 2e-3 * min(1, (step + 1) / 30, 2 - 2 * step / n_steps)
            loop.step([pack])
            if step % 50 == 49:
                print(f"step {step + 1}, {time.process_time() - started:.0f} s of processor time", flush=True)
        with torch.no_grad():
            torch._foreach_copy_(loop.weights, loop.ema)
        return network.eval()


def write_media(folder: Path, number: int, size: tuple[int, int]) -> None:
    """A clip of 40 frames of each size: its parts as videos and pictures."""
    frames = clip(SEED_OF_MEDIA + number, 40, size)
    (folder / f"{number}.mp4").write_bytes(mp4_bytes(frames[:20], FPS))
    (folder / f"{number}_later.mp4").write_bytes(mp4_bytes(frames[28:], FPS))
    (folder / f"{number}.png").write_bytes(png_bytes(frames[0]))
    (folder / f"{number}_12.png").write_bytes(png_bytes(frames[12]))


def documents(number: int, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """A request of every mode at a size."""
    video, image = {"video": f"{number}.mp4"}, {"image": f"{number}.png"}
    later = f"{number}_12.png"
    keep = [{"seconds": 0, "until": 5 / 8}, {"seconds": 13 / 8, "until": 17 / 8}]
    modes: dict[str, dict[str, Any]] = {
        "text_to_video": {},
        "picture": {"mode": "text_to_video", "seconds": 0},
        "image_to_video": image,
        "extend_forward": video | {"seconds": 21 / 8},
        "extend_backward": video | {"seconds": 21 / 8},
        "join": video | {"video_after": f"{number}_later.mp4"},
        "first_last": image | {"image_last": later, "seconds": 14 / 8},
        "loop": {"seconds": 2},
        "loop_from_picture": {"mode": "loop"} | image,
        "infill": video | {"keep": keep},
        "infill_pictures": {
            "mode": "infill",
            "keep": [{"image": f"{number}.png", "seconds": 0}, {"image": later, "seconds": 12 / 8}],
        },
        "interpolate": video | {"fps": 16, "seconds": 1},
        "video_to_video_0.3": video | {"mode": "video_to_video", "strength": 0.3},
        "video_to_video_0.9": video | {"mode": "video_to_video", "strength": 0.9},
        "image_to_image": image | {"seconds": 0, "strength": 0.5},
    }
    common = {"prompt": "-", "height": size[0], "width": size[1], "guidance": 1, "steps": STEPS, "seed": 1}
    for name, fields in modes.items():
        common |= {"custom_id": f"{name}-{number}", "mode": name}
        yield {"seconds": 17 / 8} | common | fields


@dataclass
class Made:
    """An output: its request, its frames (F, H, W, 3), its sidecar, and which frames are its media's."""

    request: Request
    frames: np.ndarray
    sidecar: dict[str, Any]
    given: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """(F - 1,) the mean absolute difference of neighbouring frames."""
        return np.abs(np.diff(self.frames.astype(float), axis=0)).mean(axis=(1, 2, 3))

    @property
    def seam(self) -> list[float]:
        """The step from the last frame to the first, over the medians of all inside, and of latent frames."""
        step = np.abs(self.frames[-1].astype(float) - self.frames[0]).mean()
        of_latents = self.steps[0 if self.request.image else 3 :: 4]
        return [round(float(step / np.median(steps)), 2) for steps in (self.steps, of_latents)]

    @property
    def join(self) -> float | None:
        """The largest step between a conditioning and a made frame, over the median of the others."""
        borders = np.diff(self.given.astype(int)) != 0
        if not borders.any() or borders.all():
            return None
        return float(self.steps[borders].max() / np.median(self.steps[~borders]))


def generate(training: Training, network: torch.nn.Module, folder: Path) -> list[Made]:
    """The outputs of all requests, made in the same passes."""
    for number, size in enumerate(SIZES):
        write_media(folder, number, size)
    limits = Limits(GenerateSettings(), training.card.patching, str(folder))
    lines = [json.dumps(d) for number, size in enumerate(SIZES) for d in documents(number, size)]
    requests = [parse(line, limits) for line in lines]
    app, card = DecodeWrite(training.card), training.card
    denoiser = Denoiser(Experts([network]), token_budget=1 << 14)
    found = [asyncio.run(app.canvas(request)) if request.media else None for request in requests]
    futures = []
    for request, conditions in zip(requests, found, strict=True):
        start = blank(request, card.patching, card.channels) if conditions is None else _canvas(conditions)
        futures.append(denoiser.submit(begin(request, start, (NO_TEXT, NO_TEXT), card=card)))
    outputs = []
    for request, conditions, future in zip(requests, found, futures, strict=True):
        latent = future.result(600).latent(2).numpy()
        target = Target(str(folder / request.custom_id), Maker("", "", 0, ""))
        sidecar = asyncio.run(app.write(request, _denoised(latent), conditions, target))
        given = np.zeros(request.size.n_frames, bool)
        for begins, ends in sidecar["given"]["spans"]:  # type: ignore[index]
            given[begins:ends] = True
        outputs.append(Made(request, _read(str(sidecar["uri"]), request), sidecar, given))
    denoiser.close()
    return outputs


def _denoised(latent: np.ndarray) -> Denoised:
    return Denoised(latent, (0, 0), {"denoise": Spent(0.0, 0.0)})


def _canvas(conditions: Given) -> Canvas:
    return Canvas(torch.tensor(conditions.latent), torch.tensor(conditions.given))


def _read(uri: str, request: Request) -> np.ndarray:
    size = request.size
    return Clip(uri, probe(uri).decoder, 0.0, request.fps, n_frames=size.n_frames).frames(
        size=(size.height, size.width)
    )


def sheet(made: list[Made]) -> np.ndarray:
    """Rows of frames, uint8 (H, W, 3); conditioning frames have a bar above them."""
    rows = []
    for output in made:
        n, height, width, _ = output.frames.shape
        row = np.full((height + 8, 21 * (width + 2), 3), 30, np.uint8)
        for i in range(min(n, 21)):
            left = i * (width + 2)
            row[8:, left : left + width] = output.frames[i]
            row[1:6, left : left + width] = 255 * output.given[i]
        rows.append(row)
    return np.concatenate(rows)


def figures(outputs: list[Made]) -> dict[str, Any]:
    """The last line."""
    psnr: dict[str, float] = {}
    joins: dict[str, float] = {}
    seams: dict[str, list[float]] = {}
    followed: dict[str, float] = {}
    for made in outputs:
        name = made.request.custom_id.rpartition("-")[0]
        if (db := made.sidecar["given"]["psnr_db"]) is not None:
            psnr[name] = min(db, psnr.get(name, 100.0))
        if made.request.mode == "loop":
            seams[made.request.custom_id] = made.seam
        elif (join := made.join) is not None:
            joins[made.request.custom_id] = round(join, 2)
        number = int(made.request.custom_id[-1])
        source = clip(SEED_OF_MEDIA + number, len(made.frames), SIZES[number])
        if name.startswith(("video_to_video", "image_to_image", "image_to_video")):
            made_frames = torch.from_numpy(made.frames[~made.given])
            db = psnr_db(made_frames, [torch.from_numpy(source[~made.given])])
            followed[made.request.custom_id] = round(db, 1)
    model = {key: followed.pop(key) for key in list(followed) if key.startswith("image_to_video")}
    ratios = {"seam_ratio": seams, "join_ratio": joins}
    return {"psnr_db": psnr, **ratios, "followed": followed, "model_psnr_db": model}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("modes"),
        help="outputs, sheets, and weights, which a next run uses",
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    training = Training()
    weights = folder / f"{args.steps}_steps.safetensors"
    if weights.exists():
        network = training.card.build()
        network.load_state_dict(load_file(weights))
        network.eval()
    else:
        network = training.model(args.steps)
        save_file(network.state_dict(), weights)
    started = time.monotonic()
    with torch.inference_mode():
        outputs = generate(training, network, folder)
    seconds = round(time.monotonic() - started, 1)
    for number in range(len(SIZES)):
        of_size = [made for made in outputs if made.request.custom_id.endswith(f"-{number}")]
        Image.fromarray(sheet(of_size)).save(folder / f"sheet_{number}.png")
    print(json.dumps({"train_steps": args.steps, "generate_s": seconds, **figures(outputs)}))


if __name__ == "__main__":
    main()
