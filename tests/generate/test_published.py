"""From a published folder our engine makes what diffusers' own pipelines make from it."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from flow.wan_folders import SCHEDULERS, write_pipeline
from vitascope import config
from vitascope.encode.text import make_text_encoder
from vitascope.generate import conditions
from vitascope.generate.app.codec import DecodeWrite
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.sampler import Work, begin
from vitascope.generate.opened import Opened, opened
from vitascope.generate.parse import Limits, parse
from vitascope.generate.request import Request

KINDS: dict[str, dict[str, Any]] = {"2.1": {}, "5B": {"channels": 48}, "A14B": {"boundary": 0.875}}
TOLERANCE = 1e-4  # in float32, of values with a standard deviation of about 1


@dataclass(frozen=True, eq=False)
class Folder:
    """A published pipeline: opened by us, and loaded by diffusers."""

    path: Path
    ours: Opened
    theirs: Any
    denoiser: Denoiser

    def request(self, **fields: Any) -> Request:
        """A checked request: a small video, except for the given fields."""
        settings = config.load(None, ["generate.media_from=['/']"]).generate
        small = {"custom_id": "a", "prompt": "a large rabbit", "width": 64, "height": 32, "seconds": 5 / 8}
        limits = Limits(settings, self.ours.card.patching, "/media", self.ours.sampling)
        return parse(json.dumps(small | fields), limits)

    def work(self, request: Request) -> Work:
        """The request before its first step, as the app begins it."""
        card = self.ours.card
        states = make_text_encoder(card.encode).encode([request.prompt, request.negative_prompt])
        if request.image:
            found = asyncio.run(DecodeWrite(card).canvas(request))
            canvas = Canvas(torch.tensor(found.latent), torch.tensor(found.given))
        else:
            canvas = conditions.blank(request, card.patching, card.channels)
        return begin(request, canvas, (states[0], states[1]), card=card, sampling=self.ours.sampling)

    def by_diffusers(self, request: Request, work: Work, **options: Any) -> torch.Tensor:
        """The final latent (T, h, w, C) of diffusers' pipeline, from the same noise."""
        pipeline = self.theirs
        if request.image:
            pipeline = diffusers.WanImageToVideoPipeline(**pipeline.components, expand_timesteps=True)
            options["image"] = Image.open(request.image)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = SCHEDULERS[request.solver]
        found = pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            height=request.height,
            width=request.width,
            num_frames=request.size.n_frames,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            latents=work.latent(self.ours.card.model.patch).permute(3, 0, 1, 2)[None],
            output_type="latent",
            **options,
        ).frames
        return found[0].permute(1, 2, 3, 0)

    def check(self, found: Work, expected: torch.Tensor) -> None:
        """Whether a finished request is as it should be."""
        torch.testing.assert_close(found.latent(self.ours.card.model.patch), expected, atol=TOLERANCE, rtol=0)
        assert expected.std() > 0.3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Folder]]:
    """One of each kind."""
    made = {}
    for name, kind in KINDS.items():
        path = write_pipeline(tmp_path_factory.mktemp("wan"), **kind)
        ours = opened(config.load(None, [f"generate.model={path}"]))
        theirs = diffusers.WanPipeline.from_pretrained(path)
        made[name] = Folder(path, ours, theirs, Denoiser(ours.load("cpu"), token_budget=4096))
    yield made
    for folder in made.values():
        folder.denoiser.close()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A picture of a request's size."""
    path = tmp_path_factory.mktemp("picture") / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize("solver", SCHEDULERS)
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_packs_give_what_diffusers_gives(
    kind: str, solver: str, folders: dict[str, Folder], picture: str
) -> None:
    """Requests of other sizes, steps, guidance and modes, all in the same passes."""
    folder = folders[kind]
    wanted: list[dict[str, Any]] = [
        {"steps": 4},
        {"steps": 6, "guidance": 1, "width": 32, "height": 64, "prompt": "traffic at dusk"},
        {"steps": 3, "seconds": 0, "negative_prompt": "a street"},
        {"steps": 5, "guidance": 3, "seconds": 9 / 8, "width": 32},
    ]
    if kind == "5B":
        image = {"mode": "image_to_video", "image": picture}
        wanted += [{"steps": 5} | image, {"steps": 2, "guidance": 1} | image]
    requests = [folder.request(seed=i, solver=solver, **fields) for i, fields in enumerate(wanted)]
    works = [folder.work(request) for request in requests]
    found = [future.result(60) for future in [folder.denoiser.submit(work) for work in works]]
    for request, work, done in zip(requests, works, found, strict=True):
        assert done.step == request.steps
        folder.check(done, folder.by_diffusers(request, work))


@pytest.mark.parametrize("solver", SCHEDULERS)
@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_a_video_made_anew_is_what_diffusers_makes(
    strength: float, solver: str, folders: dict[str, Folder]
) -> None:
    """By its pipeline for this, which noises the source's latent itself."""
    folder = folders["2.1"]
    fields = {"mode": "video_to_video", "video": "/media/a.mp4", "strength": strength}
    request = folder.request(seed=3, steps=8, solver=solver, guidance=3, **fields)
    card, sampling = folder.ours.card, folder.ours.sampling
    source = torch.randn(2, 4, 8, card.channels)
    states = make_text_encoder(card.encode).encode([request.prompt, request.negative_prompt])
    canvas = Canvas(source, torch.zeros(2, dtype=torch.bool))
    work = begin(request, canvas, (states[0], states[1]), card=card, sampling=sampling)
    schedule = work.schedule
    noised = work.latent(card.model.patch)
    assert work.load.n_passes == request.n_passes == int(8 * strength)
    eps = (noised - (1 - schedule.levels[0]) * source) / schedule.levels[0]
    found = folder.denoiser.submit(work).result(60)
    parts = {key: value for key, value in folder.theirs.components.items() if "transformer_2" not in key}
    pipeline = diffusers.WanVideoToVideoPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = SCHEDULERS[solver]
    pipeline.scheduler.set_timesteps(request.steps)
    start = pipeline.scheduler.timesteps[-request.n_passes :][:1]
    clean, noise = (part.permute(3, 0, 1, 2)[None] for part in (source, eps))
    if solver == "unipc":
        theirs = pipeline.scheduler.add_noise(clean, noise, start)
    else:
        theirs = pipeline.scheduler.scale_noise(clean, start, noise)
    torch.testing.assert_close(theirs[0].permute(1, 2, 3, 0), noised, atol=1e-5, rtol=0)
    expected = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        height=request.height,
        width=request.width,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        strength=strength,
        latents=theirs,
        output_type="latent",
    ).frames
    folder.check(found, expected[0].permute(1, 2, 3, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_alone_with_the_folders_own_solver_and_shift(kind: str, folders: dict[str, Folder]) -> None:
    folder = folders[kind]
    request = folder.request(steps=7)
    assert (request.solver, request.shift, request.guidance) == ("unipc", 3.0, 5.0)
    work = folder.work(request)
    folder.check(folder.denoiser.submit(work).result(60), folder.by_diffusers(request, work))


def test_the_second_expert_has_its_own_guidance(folders: dict[str, Folder]) -> None:
    folder = folders["A14B"]
    request = folder.request(steps=5, guidance=4, guidance_2=2.5)
    work = folder.work(request)
    assert set(work.schedule.experts) == {0, 1}
    done = folder.denoiser.submit(work).result(60)
    folder.check(done, folder.by_diffusers(request, work, guidance_scale_2=2.5))
    same = folder.denoiser.submit(folder.work(folder.request(steps=5, guidance=4))).result(60)
    assert (same.tokens - done.tokens).abs().max() > 1e-3  # and the agreement is below 1e-4
