"""Outputs are signed: they claim what made them, and nothing of the request's text."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vitascope import config
from vitascope.errors import Mistake
from vitascope.generate.app.build import build
from vitascope.generate.app.codec import DecodeWrite, Publishing
from vitascope.generate.app.values import Denoised
from vitascope.generate.models import open_models
from vitascope.generate.opened import Adapter, Maker, Target
from vitascope.generate.request import Request
from vitascope.generate.sidecar import Spent
from vitascope.media.mp4 import png_bytes
from vitascope.model.formats.card import ModelCard
from vitascope.provenance.settings import ProvenanceSettings
from vitascope.provenance.verify import verify

MADE_BY = Maker("/models/secret-folder", "5" * 16, 7, "latents")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(codec: DecodeWrite, card: ModelCard, request: Request, target: Target) -> dict:
    shape = card.patching.latent_shape(card.patching.covering(request.size))
    latent = torch.randn(*shape, card.channels, generator=torch.Generator().manual_seed(0)).numpy()
    denoised = Denoised(latent, (1, 1), {"denoise": Spent(0.0, 0.0)})
    return asyncio.run(codec.write(request, denoised, None, target))


@pytest.mark.parametrize("seconds", [0, 9 / 8], ids=["png", "mp4"])
def test_outputs_are_signed_and_the_sidecar_names_the_manifest(
    card: ModelCard, tmp_path: Path, request_of: Callable[..., Request], seconds: float
) -> None:
    request = request_of(custom_id="my-name", prompt="a secret cat", seconds=seconds)
    target = Target(str(tmp_path / "out"), MADE_BY, Adapter("film", 0.5, ("/a",), "6" * 16))
    sidecar = write(DecodeWrite(card), card, request, target)
    verdict = verify(str(sidecar["uri"]))
    assert (verdict.state, verdict.generated, verdict.made_by.split()[0]) == ("valid", True, "vitascope")
    assert sidecar["provenance"]["manifest"] == verdict.manifest
    assert sidecar["provenance"]["key"] == "development"
    assert verdict.claim is not None
    assert verdict.claim["model"] == "5" * 16
    assert verdict.claim["request"] == request.digest
    assert verdict.claim["seed"] == request.seed
    assert verdict.claim["adapter"] == {"hash": "6" * 16, "weight": 0.5}
    content = Path(str(sidecar["uri"])).read_bytes()
    assert [text for text in (b"secret", b"my-name", str(tmp_path).encode()) if text in content] == []


def test_an_output_is_made_from_the_media_of_its_request(
    card: ModelCard, tmp_path: Path, request_of: Callable[..., Request]
) -> None:
    codec, picture = DecodeWrite(card), tmp_path / "picture.png"
    picture.write_bytes(png_bytes(np.zeros((48, 64, 3), np.uint8)))
    image = request_of(mode="image_to_video", image=str(picture))
    first = write(codec, card, image, Target(str(tmp_path / "first"), MADE_BY))
    longer = request_of(mode="extend_forward", video=first["uri"], seconds=17 / 8)
    asyncio.run(codec.canvas(longer))  # a signed video is a video like others
    second = write(codec, card, longer, Target(str(tmp_path / "second"), MADE_BY))
    verdict = verify(str(second["uri"]))
    assert verdict.state == "valid"
    (made_from,) = verdict.inputs
    manifest = first["provenance"]["manifest"]
    assert made_from == {"title": "video", "relationship": "componentOf", "manifest": manifest}


def test_attempts_that_race_agree_on_the_manifest(
    card: ModelCard, tmp_path: Path, request_of: Callable[..., Request]
) -> None:
    codec, target = DecodeWrite(card), Target(str(tmp_path / "out"), MADE_BY)
    first, second = (write(codec, card, request_of(), target) for _ in range(2))
    assert first == second
    assert verify(str(second["uri"])).manifest == first["provenance"]["manifest"]


def test_files_stay_unsigned_only_if_the_settings_say_so(
    card: ModelCard, tmp_path: Path, request_of: Callable[..., Request]
) -> None:
    codec = DecodeWrite(card, publishing=Publishing(ProvenanceSettings(sign=False)))
    sidecar = write(codec, card, request_of(), Target(str(tmp_path / "out"), MADE_BY))
    assert sidecar["provenance"] is None
    assert verify(str(sidecar["uri"])).state == "none"
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(sidecar))


def test_a_key_that_cannot_be_used_stops_the_work_before_it_begins(
    model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_text("no key")
    named = [f"provenance.{name}={tmp_path / 'key.pem'}" for name in ("certificate", "private_key")]
    settings = config.load(None, [f"generate.model={model_folder}", *named])
    with pytest.raises(Mistake, match="holds no certificate"):
        build(open_models(settings), settings)
