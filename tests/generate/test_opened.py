"""Models are checked before anything is scheduled; each refusal says what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flow.wan_folders import write_pipeline
from vitascope import config, storage
from vitascope.encode.buckets import Patching
from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import STRIDES
from vitascope.encode.text import make_text_encoder
from vitascope.errors import Missing, Mistake
from vitascope.generate.denoise.sampling import OURS
from vitascope.generate.opened import Opened, opened
from vitascope.generate.parse import Limits, parse
from vitascope.generate.settings import GenerateSettings
from vitascope.model.formats.card import ModelCard, load_card, save_model
from vitascope.model.formats.start import open_start
from vitascope.model.networks import trained_shapes
from vitascope.model.settings import LoraSettings

WEIGHTS = "diffusion_pytorch_model.safetensors"
VAE_OF_5B = {"z_dim": 48, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with two experts."""
    return write_pipeline(tmp_path_factory.mktemp("wan"), boundary=0.9)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(whole, tmp_path / "pipeline"))


def open_it(folder: object, *overrides: str) -> Opened:
    return opened(config.load(None, [f"generate.model={folder}", *overrides]))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_pipeline_describes_itself(whole: Path) -> None:
    model = open_it(whole)
    card, sampling = model.card, model.sampling
    assert (card.model.network, card.model.depth, card.channels, card.text_dim) == ("wan", 2, 16, 32)
    assert (card.patching.strides, card.encode.max_text_tokens, card.timestep_shift) == ((4, 8), 512, 3.0)
    assert (sampling.solver, sampling.shift, sampling.steps, sampling.guidance) == ("unipc", 3.0, 50, 5.0)
    assert (sampling.boundary, sampling.modes, model.n_experts) == (0.9, UNCONDITIONED, 2)
    first, second = model.load("cpu").networks
    assert model.n_parameters == 2 * sum(weights.numel() for weights in first.parameters())
    for network, name in ((first, "transformer"), (second, "transformer_2")):
        expected = load_file(whole / name / WEIGHTS)
        assert all(torch.equal(weights, expected[name]) for name, weights in network.state_dict().items())


def test_the_identity_is_that_of_the_content(whole: Path, folder: Path, s3: str) -> None:
    for file in whole.rglob("*"):
        if file.is_file():
            storage.put(storage.join(s3, "wan", str(file.relative_to(whole))), file.read_bytes())
    on_s3 = open_it(storage.join(s3, "wan"))
    identity = open_it(whole).maker.identity
    assert open_it(folder).maker.identity == on_s3.maker.identity == identity
    network, expected = on_s3.load("cpu").networks[1], load_file(whole / "transformer_2" / WEIGHTS)
    assert all(torch.equal(weights, expected[name]) for name, weights in network.state_dict().items())
    assert open_it(folder, "encode.text_precision=bf16").maker.identity != identity
    edit(folder / "scheduler/scheduler_config.json", flow_shift=5.0)
    assert open_it(folder).maker.identity != identity


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def pickle(path: Path) -> None:
    path.unlink()
    torch.save({}, path.with_suffix(".bin"))


def without_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


def other_autoencoder(folder: Path) -> None:
    edit(folder / "vae/config.json", **VAE_OF_5B)


def other_text_encoder(folder: Path) -> None:
    edit(folder / "text_encoder/config.json", d_model=64)


def smaller_second(folder: Path) -> None:
    edit(folder / "transformer_2/config.json", num_layers=1)
    weights = load_file(folder / "transformer_2" / WEIGHTS)
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("blocks.1.")}
    save_file(kept, folder / "transformer_2" / WEIGHTS)


def of(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / name, **changes)


SCHEDULER = "scheduler/scheduler_config.json"
WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "another pipeline": (of("model_index.json", _class_name="FluxPipeline"), "'FluxPipeline'; expected WanP"),
    "another family": (
        of("transformer/config.json", _class_name="FluxTransformer2DModel"),
        "describes a 'FluxTransformer2DModel'; expected WanTransformer3DModel",
    ),
    "image branch": (of("transformer/config.json", in_channels=36), "out_channels = 16"),
    "truncated": (lambda folder: truncate(folder / "transformer_2" / WEIGHTS), "its header describes"),
    "truncated text": (
        lambda folder: truncate(folder / "text_encoder/model.safetensors"),
        "its header describes",
    ),
    "truncated codec": (lambda folder: truncate(folder / "vae" / WEIGHTS), "its header describes"),
    "a pickle": (lambda folder: pickle(folder / "transformer" / WEIGHTS), "is a pickle"),
    "a pickled codec": (lambda folder: pickle(folder / "vae" / WEIGHTS), "is a pickle"),
    "no tokenizer": (without_tokenizer, "is not whole: no tokenizer"),
    "another autoencoder": (other_autoencoder, "takes channels = 16, the codec diffusers gives 48"),
    "another text encoder": (other_text_encoder, "takes text_dim = 32, the text encoder hf gives 64"),
    "no scheduler": (lambda folder: (folder / SCHEDULER).unlink(), "no scheduler_config.json in"),
    "another scheduler": (
        of(SCHEDULER, _class_name="HeunDiscreteScheduler"),
        "the known schedulers are UniPCMultistepScheduler, .*set generate.solver and generate.shift",
    ),
    "another order": (of(SCHEDULER, solver_order=3), "solver_order = 3, and unipc is known here with 2 only"),
    "another prediction": (of(SCHEDULER, prediction_type="epsilon"), "prediction_type = 'epsilon'"),
    "Karras": (of(SCHEDULER, use_karras_sigmas=True), "use_karras_sigmas = True"),
    "a shift that is none": (of(SCHEDULER, flow_shift="large"), "flow_shift = 'large'; expected a number"),
    "too many timesteps": (of(SCHEDULER, num_train_timesteps=4000), "num_train_timesteps = 4000; expected"),
    "no boundary": (of("model_index.json", boundary_ratio=None), "boundary_ratio = None; expected"),
    "a boundary of one": (
        of("model_index.json", transformer_2=[None, None]),
        "has transformer and boundary_ratio = 0.9; expected",
    ),
    "two sizes": (smaller_second, "the two transformers in .* have different sizes"),
    "an index that is none": (lambda folder: (folder / "model_index.json").write_text("["), "no JSON object"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name: str, folder: Path) -> None:
    change, said = WRONG[name]
    change(folder)
    with pytest.raises(Mistake, match=said) as refused:
        open_it(folder)
    assert len(str(refused.value)) < 600


def test_an_unknown_scheduler_is_replaced_if_the_settings_say_by_what(folder: Path) -> None:
    edit(folder / SCHEDULER, _class_name="DPMSolverMultistepScheduler")
    chosen = ("generate.solver=euler", "generate.shift=8")
    sampling = open_it(folder, *chosen).sampling
    assert (sampling.solver, sampling.shift, sampling.n_train) == ("euler", 8.0, 1000)
    edit(folder / SCHEDULER, _class_name="UniPCMultistepScheduler", num_train_timesteps=500)
    assert open_it(folder, *chosen).sampling.n_train == 500


def test_a_transformer_alone_is_no_model(whole: Path) -> None:
    with pytest.raises(Missing, match=r"expected model\.json of a trained one, or model_index\.json of a"):
        open_it(whole / "transformer")


def own_model(folder: Path, pipeline: Path, card: ModelCard) -> ModelCard:
    """A model of ours whose codec and text encoder are those of a pipeline."""
    published = open_it(pipeline).card
    own = card.model_copy(
        update={
            "encode": published.encode,
            "channels": published.channels,
            "text_dim": published.text_dim,
            **dict(zip(("codec", "text"), fingerprints(published), strict=True)),
        }
    )
    save_model(str(folder), own.build().state_dict(), own)
    return own


def fingerprints(card: ModelCard) -> tuple[str, str]:
    return make_codec(card.encode).fingerprint, make_text_encoder(card.encode).fingerprint


def test_parts_that_moved_are_read_from_where_the_settings_say(
    folder: Path, tmp_path: Path, card: ModelCard
) -> None:
    own_model(tmp_path / "model", folder, card)
    before = open_it(tmp_path / "model")
    assert before.sampling.n_train is None
    assert before.sampling.solver == OURS.solver
    place = storage.absolute(str(folder))
    assert before.card.encode.codec_folder == place
    folder.rename(tmp_path / "moved")
    with pytest.raises(Missing, match=r"pipeline is gone, .* set encode\.codec_folder to its new location"):
        open_it(tmp_path / "model")
    to = [
        *("encode.codec=diffusers", f"encode.codec_folder={tmp_path / 'moved'}"),
        *("encode.text_encoder=hf", f"encode.text_folder={tmp_path / 'moved'}"),
    ]
    after = open_it(tmp_path / "model", *to)
    assert after.maker.identity == before.maker.identity
    assert after.card.encode.text_folder == str(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "other")
    edit(tmp_path / "other/vae/config.json", latents_mean=[0.5] * 16)
    to = [override.replace("/moved", "/other") for override in to]
    with pytest.raises(Mistake, match=r"set as encode\.codec_folder, holds other content"):
        open_it(tmp_path / "model", *to)


def test_guidance_of_a_second_expert_needs_one(model_folder: Path) -> None:
    with pytest.raises(Mistake, match="is for models with two experts"):
        open_it(model_folder, "generate.guidance_2=3")


def test_outputs_of_our_models_keep_the_names_that_earlier_releases_gave_them(model_folder: Path) -> None:
    """Otherwise a batch that continues would be generated anew."""
    model = open_it(model_folder)
    asked = {"custom_id": "a", "prompt": "a cat", "width": 64, "height": 48, "seconds": 1.125}
    patching = Patching(STRIDES["dct"], patch=2)
    limits = Limits(GenerateSettings(), patching, "/media", model.sampling)
    assert parse(json.dumps(asked), limits).name("model") == "a-a6d11b0497d71bfc"


def changed(model_folder: Path, to: Path, **card: Any) -> Path:
    """A copy of a model of ours with another card."""
    before = load_card(str(model_folder))
    save_model(str(to), load_file(model_folder / "model.safetensors"), before.model_copy(update=card))
    return to


UNCONDITIONED = ("text_to_video", "loop", "video_to_video", "image_to_image")


@pytest.mark.parametrize(
    ("trained_with", "modes"),
    [("none", UNCONDITIONED), ("first", (*UNCONDITIONED, "image_to_video")), ("all", None)],
)
def test_modes_are_those_that_the_model_was_trained_for(
    model_folder: Path, tmp_path: Path, trained_with: str, modes: tuple[str, ...] | None
) -> None:
    folder = changed(model_folder, tmp_path / "model", conditioning_frames=trained_with)
    assert open_it(folder).sampling.modes == modes


def test_one_expert_alone_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = changed(model_folder, tmp_path / "model", expert=(0.875, 1.0))
    with pytest.raises(Mistake, match=r"one of two experts, for noise levels 0\.875 to 1; write it into its"):
        open_it(folder)


def adapted(pipeline: Path, to: Path, **changes: Any) -> Path:
    """The model folder of a run that trained adapters of one of a pipeline's experts."""
    start = open_start(str(pipeline / "transformer"))
    settings = {"lora": LoraSettings(rank=2), "start_from": str(pipeline / "transformer")}
    of = {"model": start.of.settings.model_copy(update=settings), "channels": 16, "text_dim": 32}
    card = open_it(pipeline).card
    codec, text = fingerprints(card)
    card = card.model_copy(update=of | {"start": start.identity, "codec": codec, "text": text} | changes)
    shapes = trained_shapes(card.model, 16, 32)
    save_model(str(to), {name: torch.ones(shape) for name, shape in shapes.items()}, card)
    return to


def test_adapters_are_merged_with_their_own_base_wherever_it_is(folder: Path, tmp_path: Path) -> None:
    model = adapted(folder, tmp_path / "model")
    (network,) = open_it(model).load("cpu").networks
    expected = load_file(folder / "transformer" / WEIGHTS)["blocks.0.attn1.to_q.weight"] + 16.0
    assert torch.allclose(network.state_dict()["blocks.0.attn1.to_q.weight"], expected)
    moved = folder.rename(tmp_path / "moved")
    parts = [f"encode.{part}_folder={moved}" for part in ("codec", "text")]
    there = [*parts, "encode.codec=diffusers", "encode.text_encoder=hf"]
    with pytest.raises(Missing, match=r"transformer is gone, which the adapters in .* set model\.start_from"):
        open_it(model, *there)
    (network,) = open_it(model, *there, f"model.start_from={moved / 'transformer'}").load("cpu").networks
    assert torch.allclose(network.state_dict()["blocks.0.attn1.to_q.weight"], expected)
    with pytest.raises(Mistake, match="are not those that the adapters were trained for"):
        open_it(model, *there, f"model.start_from={moved / 'transformer_2'}")


def test_an_adapter_of_one_expert_is_for_that_one_alone(whole: Path, tmp_path: Path) -> None:
    low = adapted(whole, tmp_path / "low", expert=(0.0, 0.9))
    high = adapted(whole, tmp_path / "high", expert=(0.9, 1.0))
    first, second = open_it(whole, f"generate.adapters.a={low}").read_adapters("a")
    assert not first
    assert len(second) == 20
    for place, given in (("high", [20, 0]), ("low", [0, 20])):
        found = open_it(whole, f"generate.adapters.a={tmp_path / place}").read_adapters("a")
        assert [len(pairs) for pairs in found] == given
    with pytest.raises(Mistake, match=r"low was trained for expert 2, and is in position 1 of the list"):
        open_it(whole, f'generate.adapters.a=["{low}", "{high}"]')
    with pytest.raises(Mistake, match=r"names 3 places, and the model has 2 networks"):
        open_it(whole, f'generate.adapters.a=["{high}", "{low}", "{low}"]')


def test_a_damaged_adapter_of_a_run_is_refused(whole: Path, tmp_path: Path) -> None:
    file = adapted(whole, tmp_path / "model") / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        open_it(whole, f"generate.adapters.a={file.parent}")
