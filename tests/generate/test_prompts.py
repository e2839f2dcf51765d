"""Prompts in the app: refused before any work, rewritten once, and recorded; frames refused leave no file."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vitascope import config
from vitascope.clips.filters import HookFilter
from vitascope.errors import Mistake
from vitascope.generate.app.build import Generate, build
from vitascope.generate.app.codec import DecodeWrite, Publishing
from vitascope.generate.app.prompt import Prompt
from vitascope.generate.app.values import Denoised
from vitascope.generate.batch.manifest import Outcome
from vitascope.generate.models import open_models
from vitascope.generate.opened import Maker, Target, opened
from vitascope.generate.request import Request
from vitascope.generate.sidecar import Spent
from vitascope.generate.stage import _audited
from vitascope.ledger import Reason, Rejected
from vitascope.model.formats.card import ModelCard
from vitascope.prompts.settings import PromptsSettings
from vitascope.provenance.settings import ProvenanceSettings
from vitascope.stages import resources

Make = Callable[..., Request]
MADE_BY = Maker("/model", "5" * 16, 7, "latents")
UNSIGNED = Publishing(ProvenanceSettings(sign=False))
LONGER = PromptsSettings(upsample="prompts.functions:longer")


def used(settings: PromptsSettings, folder: Path, request: Request) -> Request:
    return asyncio.run(Prompt(settings, str(folder))(request))


def test_the_prompt_is_rewritten_and_nothing_else(request_of: Make, tmp_path: Path) -> None:
    request = request_of(prompt="a cat")
    made = used(LONGER, tmp_path, request)
    assert made == request.model_copy(update={"prompt": "a cat in the rain"})


@pytest.mark.parametrize(
    ("settings", "prompt"),
    [
        (LONGER, "a nude child"),
        (LONGER.model_copy(update={"options": {"words": "naked kids"}}), "a cat"),
        (PromptsSettings(filter="prompts.functions:no_dogs"), "a dog"),
    ],
    ids=["as asked", "as rewritten", "function"],
)
def test_prompts_are_refused_before_and_after_they_are_rewritten(
    request_of: Make, tmp_path: Path, settings: PromptsSettings, prompt: str
) -> None:
    with pytest.raises(Rejected) as refused:
        used(settings, tmp_path, request_of(prompt=prompt))
    assert refused.value.reason == Reason.PROMPT_REFUSED


def test_the_ingress_refuses_by_the_list_without_a_process_for_it(request_of: Make) -> None:
    generate = Generate({}, PromptsSettings())
    outcome = asyncio.run(generate(request_of(prompt="a nude child"), Target("/out", MADE_BY)))
    assert isinstance(outcome, Rejected)
    assert outcome.reason == Reason.PROMPT_REFUSED


def test_a_process_is_only_there_if_it_has_work(model_folder: Path) -> None:
    how = [f"generate.model={model_folder}", "provenance.sign=false"]
    without = config.load(None, how)
    assert build(open_models(without), without)._bound_deployment.init_args[2] is None
    more = [*how, "prompts.upsample=prompts.functions:longer", "prompts.cpus=3", "prompts.use_gpu=true"]
    settings = config.load(None, more)
    prompt = build(open_models(settings), settings)._bound_deployment.init_args[2]
    asked = prompt._bound_deployment.ray_actor_options
    assert (asked["num_cpus"], asked["num_gpus"]) == (3, 1)
    takes, usual = resources.of_generation(settings), resources.of_generation(without)
    assert (takes.cpus - usual.cpus, takes.gpus - usual.gpus) == pytest.approx((3, 1))
    broken = config.load(None, [*how, "prompts.upsample=prompts.functions:gone"])
    with pytest.raises(Mistake, match=r"prompts\.upsample"):
        build(open_models(broken), broken)


def test_outputs_of_rewritten_prompts_have_names_of_their_own(model_folder: Path, request_of: Make) -> None:
    how = [f"generate.model={model_folder}"]
    plain = opened(config.load(None, how)).target("/out", request_of())
    rewritten = [*how, "prompts.upsample=prompts.functions:longer"]
    assert opened(config.load(None, rewritten)).target("/out", request_of()).location != plain.location
    assert opened(config.load(None, [*how, "prompts.filter=off"])).target("/out", request_of()) == plain


def write(codec: DecodeWrite, card: ModelCard, request: Request, target: Target, **more: Any) -> dict:
    shape = card.patching.latent_shape(card.patching.covering(request.size))
    latent = torch.zeros(*shape, card.channels).numpy()
    denoised = Denoised(latent, (1, 1), {"denoise": Spent(0.0, 0.0)})
    return asyncio.run(codec.write(request, denoised, None, target, **more))


def test_the_sidecar_has_both_prompts(card: ModelCard, request_of: Make, tmp_path: Path) -> None:
    codec, request = DecodeWrite(card, publishing=UNSIGNED), request_of(prompt="a cat")
    made = request.model_copy(update={"prompt": "a cat in the rain"})
    sidecar = write(codec, card, request, Target(str(tmp_path / "out"), MADE_BY), used=made.prompt)
    assert (sidecar["prompt"], sidecar["prompt_used"]) == ("a cat", "a cat in the rain")
    plain = write(codec, card, request, Target(str(tmp_path / "plain"), MADE_BY), used=request.prompt)
    assert (plain["prompt"], plain["prompt_used"]) == ("a cat", None)


@pytest.mark.parametrize("seconds", [0, 9 / 8], ids=["png", "mp4"])
def test_refused_frames_leave_no_file(
    card: ModelCard, request_of: Make, tmp_path: Path, seconds: float
) -> None:
    hook = HookFilter(use="drop", function="prompts.functions:brightness", max=1)
    codec = DecodeWrite(card, publishing=Publishing(ProvenanceSettings(sign=False), hook))
    with pytest.raises(Rejected) as refused:
        write(codec, card, request_of(seconds=seconds), Target(str(tmp_path / "out"), MADE_BY))
    assert refused.value.reason == Reason.FRAMES_REFUSED
    assert list(tmp_path.iterdir()) == []


def test_the_log_names_the_batch_and_the_outcome(request_of: Make, tmp_path: Path) -> None:
    settings = config.load(None, [f"run.folder={tmp_path}", "generate.batch=mine", "prompts.audit_days=30"])
    request = request_of(custom_id="a", prompt="a cat")
    with _audited(settings) as asked:
        asked(Outcome(1, "a").refused(Rejected(Reason.PROMPT_REFUSED, "why")), request)
        asked(Outcome(2, "b").refused(Rejected(Reason.INVALID_REQUEST, "why")), None)
    files = sorted((tmp_path / "audit").rglob("*.jsonl"))
    first, second = (json.loads(line) for file in files for line in file.read_text().splitlines())
    assert (first["who"], first["prompt"], first["request"]) == ("batch:mine", "a cat", request.digest)
    assert first["outcome"] == "prompt_refused"
    assert (second["custom_id"], second["prompt"], second["outcome"]) == ("b", "", "invalid_request")
