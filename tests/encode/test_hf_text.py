"""UMT5 from a folder gives the states that diffusers' Wan pipeline gives."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from pydantic import ValidationError
from transformers import AutoTokenizer, UMT5EncoderModel

from encode.t5_folders import WORDS, write_umt5
from vitascope import config, storage
from vitascope.encode import stage
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import TextEncoder, make_text_encoder
from vitascope.encode.text.hf import cleaned
from vitascope.errors import Missing, Mistake
from vitascope.feed.plan import Position
from vitascope.feed.source import load_pack
from vitascope.train.stage import plan_job

CAPTIONS = [WORDS[0], "", "  Tom &amp;amp; Jerry\n\tÃ©tude ", WORDS[1] * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_umt5(tmp_path_factory.mktemp("pipeline"))


def encoder_of(folder: Any, **settings: Any) -> TextEncoder:
    settings = {"max_text_tokens": 64} | settings
    return make_text_encoder(EncodeSettings(text_encoder="hf", text_folder=str(folder), **settings))


def of_diffusers(folder: Path, captions: list[str], length: int) -> torch.Tensor:
    """(B, length, dim): real tokens, then zeros."""
    model = UMT5EncoderModel.from_pretrained(folder / "text_encoder", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=model,
        vae=None,
        scheduler=None,
        transformer=None,
        transformer_2=None,
    )
    with torch.no_grad():
        return pipeline._get_t5_prompt_embeds(
            captions, max_sequence_length=length, device=torch.device("cpu"), dtype=torch.float32
        )


def test_states_are_those_of_diffusers_pipeline(folder: Path) -> None:
    expected = of_diffusers(folder, CAPTIONS, 64)
    found = encoder_of(folder).encode(CAPTIONS)
    assert [len(states) for states in found] == [int(row.any(dim=1).sum()) for row in expected]
    assert len(found[3]) == 64
    for states, row in zip(found, expected, strict=True):
        torch.testing.assert_close(states, row[: len(states)], rtol=1e-5, atol=1e-5)


def test_no_caption_is_the_end_token_alone(folder: Path) -> None:
    encoder = encoder_of(folder)
    (empty,) = encoder.encode([""])
    assert empty.shape == (1, encoder.dim)
    assert empty.abs().max() > 0
    assert encoder.count(["", WORDS[1] * 40])[0] == 1


@pytest.mark.usefixtures("one_thread")
def test_a_caption_is_the_same_in_any_company(folder: Path) -> None:
    encoder = encoder_of(folder)
    together = encoder.encode([*CAPTIONS, *WORDS, *CAPTIONS])
    for n, caption in enumerate(CAPTIONS):
        assert torch.equal(together[n], encoder.encode([caption])[0])


def test_captions_are_cleaned() -> None:
    assert cleaned("  Tom &amp;amp; Jerry\n\tÃ©tude ") == "Tom & Jerry étude"


@pytest.mark.parametrize("where", ["local", "s3"])
def test_one_folder_with_both_and_a_folder_in_a_bucket_give_the_same(
    folder: Path, tmp_path: Path, where: str, s3: str
) -> None:
    both = str(tmp_path) if where == "local" else f"{s3}/both"
    for path in folder.glob("*/*"):
        storage.put(f"{both}/{path.name}", path.read_bytes())
    found = encoder_of(both)
    assert torch.equal(found.encode(WORDS)[0], encoder_of(folder).encode(WORDS)[0])


def test_the_fingerprint_changes_with_all_that_shapes_a_state(folder: Path, tmp_path: Path) -> None:
    first = encoder_of(folder).fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert encoder_of(tmp_path / "copy").fingerprint == first
    others = [
        encoder_of(folder, max_text_tokens=32).fingerprint,
        encoder_of(folder, text_precision="bf16").fingerprint,
        encoder_of(write_umt5(tmp_path / "weights", seed=1)).fingerprint,
    ]
    path = tmp_path / "copy" / "tokenizer" / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"][-1][1] -= 1.0
    path.write_text(json.dumps(document))
    others.append(encoder_of(tmp_path / "copy").fingerprint)
    assert len({first, *others}) == 5


def test_weights_that_changed_in_place_are_hashed_again(tmp_path: Path) -> None:
    before = encoder_of(write_umt5(tmp_path)).fingerprint
    assert encoder_of(write_umt5(tmp_path, seed=1)).fingerprint != before


def test_bf16_is_near_float32(folder: Path) -> None:
    exact, half = (encoder_of(folder, text_precision=p).encode(WORDS)[0] for p in ("float32", "bf16"))
    assert half.dtype == torch.float32
    assert not torch.equal(exact, half)
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))


def without(name: str) -> Any:
    def remove(folder: Path) -> None:
        target = folder / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return remove


def pickled(folder: Path) -> None:
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")


def of_another_type(folder: Path) -> None:
    config = folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"umt5"', '"gpt2"'))


@pytest.mark.parametrize(
    ("breaking", "error", "said"),
    [
        (without("tokenizer"), Missing, r"no tokenizer in .*: expected tokenizer\.json or spiece\.model"),
        (without("text_encoder"), Missing, r"no config\.json in .*; encode\.text_folder names a folder"),
        (without("text_encoder/model.safetensors"), Missing, "holds no weights; encode.text_folder names"),
        (pickled, Missing, "only pytorch_model.bin, a pickle, which can run code"),
        (of_another_type, Mistake, "a model of type gpt2, and text_encoder hf reads t5 and umt5"),
    ],
)
def test_another_folder_is_refused_with_a_sentence(
    folder: Path, tmp_path: Path, breaking: Any, error: type, said: str
) -> None:
    shutil.copytree(folder, tmp_path / "broken")
    breaking(tmp_path / "broken")
    with pytest.raises(error, match=said):
        encoder_of(tmp_path / "broken")


def test_a_folder_belongs_to_hf() -> None:
    with pytest.raises(ValidationError, match="text_encoder is hf and text_folder is not set"):
        EncodeSettings(text_encoder="hf")
    with pytest.raises(ValidationError, match="text_encoder is minilm and text_folder is /a"):
        EncodeSettings(text_folder="/a")


@pytest.mark.usefixtures("in_process")
def test_a_dropped_caption_is_trained_as_no_caption(
    folder: Path, tmp_path: Path, media: Any, clip_row: Any, put_clips: Any
) -> None:
    hf = [f'encode.text_folder="{folder}"', "encode.text_encoder=hf", "encode.max_text_tokens=64"]
    small = ["encode.max_pixels=4096", "encode.frame_counts=[1]", "feed.packs_per_step=1"]
    overrides = [*hf, *small, "train.text_dropout=0.5", f'run.folder="{tmp_path}/run"']
    settings = config.load(None, overrides)
    rows = [clip_row(media.bikes, start_s=i / 2, width=640, height=272, caption=WORDS[0]) for i in range(12)]
    put_clips(settings.run.folder, rows)
    stage.run(settings)
    job = plan_job(settings)
    source = job.source("train", job.draws)
    pack = load_pack(source, Position(), 0)
    told, none = (encoder_of(folder).encode([caption])[0].bfloat16() for caption in (WORDS[0], ""))
    states = pack.text.split(pack.text_lengths.tolist())
    assert len(states) == len(rows)
    assert {len(each) for each in states} == {len(told), 1}
    assert all(torch.equal(each, none if len(each) == 1 else told) for each in states)
