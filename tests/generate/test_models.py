"""Several models in one app, and a newer version of one while requests run."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from vitascope import config
from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.generate import conditions
from vitascope.generate.app.build import bound
from vitascope.generate.denoise import sampler
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.versions import Versions
from vitascope.generate.models import Models, Newest, open_model, open_models
from vitascope.generate.opened import Opened
from vitascope.generate.parse import parse
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected
from vitascope.model.formats.card import ModelCard, save_model


def save_as(folder: Path, card: ModelCard, seed: int, **changes: Any) -> Path:
    """A model of random weights, in a run's way."""
    torch.manual_seed(seed)
    card = card.model_copy(update=changes)
    save_model(
        str(folder), {k: torch.randn_like(v) * 0.1 for k, v in card.build().state_dict().items()}, card
    )
    return folder


@pytest.fixture
def folder(card: ModelCard, tmp_path: Path) -> Path:
    return save_as(tmp_path / "model", card, seed=1)


@pytest.fixture
def settings(folder: Path, card: ModelCard, tmp_path: Path) -> Settings:
    other = card.model_copy(update={"model": card.model.model_copy(update={"depth": 1})})
    save_as(tmp_path / "other", other, seed=2, conditioning_frames="none")
    models = f'generate.models={{"small"="{tmp_path / "other"}"}}'
    return config.load(None, [f"generate.model={folder}", models, "generate.follow_s=10"])


def document(**fields: Any) -> str:
    fields = {"custom_id": "a", "prompt": "a cat", "width": 64, "height": 48, "seconds": 0} | fields
    return json.dumps(fields)


def test_each_request_has_the_limits_and_the_identity_of_its_model(settings: Settings) -> None:
    models = open_models(settings)
    limits = models.limits("/media")
    default, small = (parse(document(**fields), limits) for fields in ({}, {"model": "small"}))
    assert models.of(default).card.model.depth == 2
    assert models.of(small).card.model.depth == 1
    targets = [models.target("/out", request) for request in (default, small)]
    assert targets[0].model != targets[1].model
    assert targets[0].location != targets[1].location
    given = {"mode": "image_to_video", "image": "/media/a.png", "seconds": 1}
    assert parse(document(**given), limits).model is None
    with pytest.raises(Rejected, match="this model makes"):
        parse(document(**given, model="small"), limits)
    with pytest.raises(Rejected, match=r"no model 'tiny' in generate\.models, which names small") as raised:
        parse(document(model="tiny"), limits)
    assert raised.value.reason is Reason.INVALID_REQUEST
    with pytest.raises(Rejected, match="model: Input should be a valid string"):
        parse(document(model=3), limits)


def test_models_of_one_text_encoder_share_it(settings: Settings, card: ModelCard, tmp_path: Path) -> None:
    parts = bound(open_models(settings), settings)
    names = [[part._bound_deployment.name for part in (p.text, p.denoise, p.codec)] for p in parts.values()]
    assert names == [
        ["TextEncode", "Denoise", "DecodeWrite"],
        ["TextEncode", "Denoise-small", "DecodeWrite-small"],
    ]
    scaling = [p.denoise._bound_deployment._deployment_config.autoscaling_config for p in parts.values()]
    assert [one.initial_replicas for one in scaling] == [1, 0], "started when it is needed"
    assert [one.min_replicas for one in scaling] == [0, 0]
    longer = card.encode.model_copy(update={"max_text_tokens": 64})
    save_as(tmp_path / "other", card, seed=2, encode=longer)
    texts = [p.text._bound_deployment.name for p in bound(open_models(settings), settings).values()]
    assert texts == ["TextEncode", "TextEncode-small"]


def test_a_wrong_model_is_named(settings: Settings, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match=r"generate\.models\.small: no model at"):
        open_models(settings)


def test_an_adapter_that_fits_no_model_is_refused(settings: Settings, tmp_path: Path) -> None:
    adapters = {"none": (str(tmp_path / "none.safetensors"),)}
    generate = settings.generate.model_copy(update={"adapters": adapters})
    with pytest.raises((Mistake, FileNotFoundError), match=r"none\.safetensors"):
        open_models(settings.model_copy(update={"generate": generate}))


def test_a_newer_checkpoint_is_used_once_it_is_whole(
    settings: Settings, folder: Path, card: ModelCard
) -> None:
    now, said = [0.0], list[str]()
    newest = Newest(settings, said.append, lambda: now[0])
    first = newest.models.each[""].opened.maker

    def after(seconds: float) -> Any:
        now[0] += seconds
        return newest.models.each[""].opened.maker

    save_as(folder, card, seed=3, step=8)
    assert after(9) == first, "not looked yet"
    assert after(1) == first, "seen once"
    second = after(10)
    assert (second.step, second != first) == (8, True)
    assert said == [f"{folder}: step 8 from now on"]
    (folder / "model.json").unlink()  # being written
    assert after(10) == after(10) == second
    save_as(folder, card, seed=3, model=card.model.model_copy(update={"patch": 1}))
    assert after(10) == after(10) == after(10) == second
    assert sum("another patch size" in line for line in said) == 1
    assert len(newest.models.each) == 2


def test_a_request_for_a_replaced_model_is_sent_again(
    settings: Settings, folder: Path, card: ModelCard
) -> None:
    settings = settings.model_copy(
        update={"generate": settings.generate.model_copy(update={"follow_s": 0.05})}
    )
    newest, sent = Newest(settings, lambda _: None), list[str]()

    async def send(_: Request, target: Any) -> Any:
        sent.append(target.model.identity)
        if len(sent) == 1:
            save_as(folder, card, seed=3, step=8)
        ok = target.model.identity == open_model(settings, "").opened.maker.identity
        return "made" if ok else Rejected(Reason.GENERATION_FAILED, "replaced", doubtful=True)

    request = parse(document(), newest.models.limits("/media"))
    assert asyncio.run(newest.made(request, "/out", send)) == "made"
    assert len(sent) >= 2
    assert sent[0] != sent[-1]


class Loads:
    """What `Versions` needs of a replica; counts the loaded versions."""

    def __init__(self, settings: Settings, *, has_room: bool) -> None:
        self._settings = settings
        self.closed: list[str] = []
        self.most = 0
        self._open: set[str] = set()
        self.versions = Versions(self.newest(), self.start, self.newest, lambda _: has_room)

    def newest(self) -> Opened:
        return open_model(self._settings, "").opened

    def start(self, model: Opened) -> Denoiser:
        denoiser = Denoiser(model.load("cpu"), token_budget=10_000)
        self._open.add(model.maker.identity)
        self.most = max(self.most, len(self._open))
        close = denoiser.close

        def closed() -> None:
            close()
            self._open.discard(model.maker.identity)
            self.closed.append(model.maker.identity)

        denoiser.close = closed  # type: ignore[method-assign]
        return denoiser

    async def latent(self, models: Models, steps: int) -> torch.Tensor:
        request = parse(document(steps=steps, seed=1), models.limits("/media"))
        async with self.versions.of(models.target("/out", request).model) as version:
            card = version.model.card
            texts = (torch.ones(2, card.text_dim), torch.zeros(0, card.text_dim))
            start = conditions.blank(request, card.patching, card.channels)
            work = sampler.begin(request, start, texts, card=card)
            return (await asyncio.wrap_future(version.denoiser.submit(work))).tokens


@pytest.mark.parametrize("has_room", [True, False])
def test_running_requests_end_on_the_old_version_and_later_ones_use_the_new(
    settings: Settings, folder: Path, card: ModelCard, has_room: bool
) -> None:
    async def run() -> None:
        loads, old = Loads(settings, has_room=has_room), open_models(settings)
        alone_old = await loads.latent(old, 30)
        running = [asyncio.create_task(loads.latent(old, 30)) for _ in range(3)]
        await asyncio.sleep(0.01)
        save_as(folder, card, seed=3, step=8)
        new = open_models(settings)
        results = await asyncio.gather(*running, *[loads.latent(new, 30) for _ in range(3)])
        alone_new = await loads.latent(new, 30)
        assert all(torch.allclose(result, alone_old, atol=1e-5) for result in results[:3])
        assert all(torch.allclose(result, alone_new, atol=1e-5) for result in results[3:])
        assert not torch.allclose(alone_old, alone_new, atol=1e-3)
        assert loads.closed == [old.each[""].opened.maker.identity]
        assert loads.most == (2 if has_room else 1)
        with pytest.raises(Rejected, match="was replaced") as raised:
            await loads.latent(old, 30)
        assert raised.value.doubtful
        for denoiser in loads.versions.denoisers:
            denoiser.close()

    asyncio.run(run())


def test_the_version_of_a_long_video_stays_between_its_chunks(
    settings: Settings, folder: Path, card: ModelCard
) -> None:
    async def run() -> None:
        loads, old = Loads(settings, has_room=True), open_models(settings)
        maker = old.of(parse(document(steps=2), old.limits("/media"))).maker
        async with loads.versions.of(maker, more=True):
            save_as(folder, card, seed=3, step=8)
        await loads.latent(open_models(settings), 2)
        assert loads.closed == []
        async with loads.versions.of(maker) as version:
            assert version.model.maker == maker

    asyncio.run(run())
