"""The app's deployments take the resources that the settings give, and use them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flow.wan_folders import write_pipeline
from vitascope import config
from vitascope.generate.app import codec, text
from vitascope.generate.app.build import build
from vitascope.generate.app.codec import DecodeWrite
from vitascope.generate.app.text import TextEncode
from vitascope.generate.app.values import Denoised
from vitascope.generate.opened import Target, opened
from vitascope.generate.parse import Limits, parse
from vitascope.generate.request import Request
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
    found = [encoder(request) for request in asked]
    assert encoded == ["a cat", "dark", "a dog"]
    for request, states in zip(asked, found, strict=True):
        prompt, negative = encode([request.prompt, request.negative_prompt])
        np.testing.assert_allclose(states.prompt, prompt.numpy(), atol=1e-5)
        np.testing.assert_allclose(states.negative, negative.numpy(), atol=1e-5)
        assert states.n_tokens == tuple(encoder._encoder.count([request.prompt, request.negative_prompt]))


def test_replicas_ask_ray_for_the_gpus_of_the_settings(model_folder: Path) -> None:
    gpus = ["generate.text_gpus=0.25", "generate.decode_gpus=0.5", "generate.decode_replicas=3"]
    settings = config.load(None, [f"generate.model={model_folder}", *gpus, "generate.use_gpu=true"])
    assert resources.of_generation(settings).gpus == 0.25 + 3 * 0.5 + 1
    bound = build(opened(settings), settings)._bound_deployment.init_args
    asked = [part._bound_deployment.ray_actor_options["num_gpus"] for part in bound]
    assert asked == [0.25, 1, 0.5]
    assert bound[0]._bound_deployment.init_args[1] == 0.25
    assert bound[2]._bound_deployment.init_args[1] == 0.5


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
        DecodeWrite(model.card, gpus).write(request, Denoised(latent, (1, 1), 0.0), None, target)
    here, there = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("cpu", "gpu"))
    assert abs(here - there).max() <= 4
