"""The app's deployments take the resources that the settings give, and use them."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flow.wan_folders import write_pipeline
from vitascope import config, storage
from vitascope.generate.app import codec, text
from vitascope.generate.app.build import bound
from vitascope.generate.app.codec import DecodeWrite
from vitascope.generate.app.denoise import Denoise
from vitascope.generate.app.shares import FREE
from vitascope.generate.app.text import TextEncode
from vitascope.generate.app.values import Denoised, Text
from vitascope.generate.denoise import states
from vitascope.generate.denoise.divide import Broken
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.models import open_models
from vitascope.generate.opened import Target, opened
from vitascope.generate.parse import Limits, parse
from vitascope.generate.request import Request
from vitascope.generate.sidecar import Spent
from vitascope.ledger import Reason, Rejected
from vitascope.model.formats.card import ModelCard
from vitascope.stages import resources

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def test_codec_and_text_encoder_are_where_the_settings_put_them(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[Any] = []

    class Part:
        def __init__(self, _: Any, device: torch.device) -> None:
            devices.append(device)

        def count(self, captions: list[str]) -> list[int]:
            return [1 for _ in captions]

    monkeypatch.setattr(codec, "make_codec", Part)
    monkeypatch.setattr(text, "make_text_encoder", Part)
    DecodeWrite(card, 0.5)
    TextEncode(card.encode, 1)
    assert devices == [GPU, GPU]
    DecodeWrite(card)
    TextEncode(card.encode)
    assert devices[2:] == [CPU, CPU]


def test_a_text_that_repeats_is_encoded_once(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncode(card.encode)
    limits = Limits(config.load(None).generate, card.patching, "/media")
    small = {"width": 64, "height": 48, "seconds": 0, "negative_prompt": "dark"}
    asked = [parse(small | {"custom_id": p, "prompt": p}, limits) for p in ("a cat", "a dog", "a cat")]
    encoded: list[str] = []
    encode = encoder._encoder.encode
    monkeypatch.setattr(encoder._encoder, "encode", lambda texts: encoded.extend(texts) or encode(texts))
    found = [encoder(request, ready=time.time(), takes=FREE) for request in asked]
    assert encoded == ["a cat", "dark", "a dog"]
    for request, text_of in zip(asked, found, strict=True):
        prompt, negative = encode([request.prompt, request.negative_prompt])
        np.testing.assert_allclose(text_of.prompt, prompt.numpy(), atol=1e-5)
        np.testing.assert_allclose(text_of.negative, negative.numpy(), atol=1e-5)
        assert text_of.n_tokens == tuple(encoder._encoder.count([request.prompt, request.negative_prompt]))


def test_replicas_ask_ray_for_the_gpus_of_the_settings(model_folder: Path) -> None:
    gpus = ["generate.text_gpus=0.25", "generate.decode_gpus=0.5", "generate.decode_replicas=3"]
    settings = config.load(None, [f"generate.model={model_folder}", *gpus, "generate.use_gpu=true"])
    assert resources.of_generation(settings).gpus == 0.25 + 3 * 0.5 + 1
    parts = bound(open_models(settings), settings)[""]
    deployments = [part._bound_deployment for part in (parts.text, parts.denoise, parts.codec)]
    assert [one.ray_actor_options["num_gpus"] for one in deployments] == [0.25, 1, 0.5]
    assert deployments[0].init_args[1] == 0.25
    assert deployments[2].init_args[1] == 0.5


@pytest.fixture
def denoise(model_folder: Path, tmp_path: Path) -> Denoise:
    """A replica with a fixed budget, outside of Ray."""
    overrides = [f"generate.model={model_folder}", "generate.token_budget=1000", "generate.save_state_s=0.01"]
    return Denoise("", config.load(None, [*overrides, f"run.folder={tmp_path}"]))


def denoiser_of(denoise: Denoise) -> Denoiser:
    (only,) = denoise._versions.denoisers
    return only


def call(denoise: Denoise, folder: Path, **fields: Any) -> tuple[Any, Target]:
    """A call of the replica for a small request, and the request's target."""
    model = denoise._newest()
    document = {"custom_id": "a", "prompt": "a", "width": 64, "height": 48, "seconds": 9 / 8, "steps": 6}
    limits = Limits(config.load(None).generate, model.card.patching, "/media", model.sampling)
    request: Request = parse(json.dumps(document | fields), limits)
    text = np.ones((2, model.card.text_dim), np.float32)
    target = model.target(str(folder), request)
    states_of = Text(text, text[:0], (2, 0), Spent(0.0, 0.0))
    return denoise(request, target, states_of, None, takes=FREE, arrived=time.time()), target


def test_another_replica_goes_on_where_a_killed_one_was(denoise: Denoise, tmp_path: Path) -> None:
    """The state is the one that the killed replica had written; the result is the same to the bit."""
    kept: dict[str, bytes] = {}
    put = storage.put

    def keeping(uri: str, content: bytes) -> None:
        kept.setdefault(uri, content)
        put(uri, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "put", keeping)
        running, target = call(denoise, tmp_path, steps=1000)
        undisturbed = asyncio.run(running)
    location = states.slot(target.location).uri
    assert kept.keys() == {location}
    put(location, kept[location])
    step, n_steps = states.progress(target.location) or (0, 0)
    assert 0 < step < n_steps == 1000
    computed, steps = denoiser_of(denoise)._computed, list[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoiser_of(denoise), "_computed", lambda w: steps.append(w[0].step) or computed(w))
        again = asyncio.run(call(denoise, tmp_path, steps=1000)[0])
    assert steps == list(range(step, 1000))
    assert np.array_equal(again.latent, undisturbed.latent)


def test_a_call_that_is_cancelled_stops_its_passes(denoise: Denoise, tmp_path: Path) -> None:
    async def main() -> None:
        running, _ = call(denoise, tmp_path, steps=1000)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(running, 0.5)

    asyncio.run(main())
    assert len(denoiser_of(denoise)._queue) == 0


def test_a_replica_whose_pass_never_ends_says_so(denoise: Denoise, monkeypatch: pytest.MonkeyPatch) -> None:
    denoise.check_health()
    monkeypatch.setattr(denoiser_of(denoise), "_passing", (-1e6, 10.0))
    with pytest.raises(Broken, match="a pass has taken"):
        denoise.check_health()


def test_a_request_that_is_too_late_is_refused(denoise: Denoise, tmp_path: Path) -> None:
    with pytest.raises(Rejected) as refused:
        asyncio.run(call(denoise, tmp_path, steps=1000, deadline_s=0.001)[0])
    assert refused.value.reason == Reason.TOO_LATE


@pytest.mark.gpu
def test_what_a_gpu_decodes_is_what_a_cpu_decodes(tmp_path: Path) -> None:
    settings = config.load(None, [f"generate.model={write_pipeline(tmp_path)}"])
    model = opened(settings)
    limits = Limits(settings.generate, model.card.patching, "/media", model.sampling)
    document = '{"custom_id": "a", "prompt": "a", "width": 32, "height": 48, "seconds": 0}'
    request: Request = parse(document, limits)
    latent = torch.randn(1, 6, 4, 16).numpy()
    for name, gpus in {"cpu": 0.0, "gpu": 1.0}.items():
        target = Target(str(tmp_path / name), model.maker)
        denoised = Denoised(latent, (1, 1), {"denoise": Spent(0.0, 0.0)})
        asyncio.run(DecodeWrite(model.card, gpus).write(request, denoised, None, target))
    here, there = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("cpu", "gpu"))
    assert abs(here - there).max() <= 4
