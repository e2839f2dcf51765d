"""Captions from a transformers model in a folder."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tiny_model import save_tiny_model

from vitascope import storage
from vitascope.caption.answers import Unusable
from vitascope.caption.local import LocalModel
from vitascope.caption.pipeline import run
from vitascope.caption.settings import CaptionSettings
from vitascope.config import Settings
from vitascope.ledger import Reason, Rejected
from vitascope.records import OK


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_tiny_model(path)
    return path


def settings(folder: Path, **more: Any) -> CaptionSettings:
    return CaptionSettings(source="folder", folder=str(folder), **{"max_tokens": 6} | more)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), np.uint8))


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "JPEG")
    return file.getvalue()


def by_hand(folder: Path, pictures: list[bytes], prompt: str) -> str:
    """What the model says, with nothing of ours between."""
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    processor = LlavaProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    images = [Image.open(io.BytesIO(content)) for content in pictures]
    inputs = processor(images=images, text="<image>" * len(images) + prompt, return_tensors="pt")
    made = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return processor.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_batch_says_what_the_model_says_of_each_alone(folder: Path) -> None:
    questions = [
        ([jpeg(1)], "What is it ?"),
        ([jpeg(2), jpeg(3)], "it"),  # of another length, so there is padding
        ([jpeg(4)], "What is it ?"),
    ]
    answers = LocalModel(settings(folder, batch_size=2)).ask(questions)
    assert answers == [by_hand(folder, *question) for question in questions]
    assert len(set(answers)) == 3


def test_a_question_that_fails_costs_only_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(settings(folder))
    generate = LocalModel._generate

    def out_of_memory(self: LocalModel, batch: list) -> list[str]:
        if any(len(pictures) > 2 for pictures, _ in batch):
            raise RuntimeError("out of memory")
        return generate(self, batch)

    monkeypatch.setattr(LocalModel, "_generate", out_of_memory)
    first, large, last = model.ask([([jpeg(1)] * n, "What is it ?") for n in (1, 3, 2)])
    assert isinstance(large, Rejected)
    assert (large.reason, large.detail) == (Reason.CAPTION_FAILED, "RuntimeError: out of memory")
    assert isinstance(first, str)
    assert isinstance(last, str)


def test_what_a_model_says_may_be_a_refusal(folder: Path) -> None:
    (answer,) = LocalModel(settings(folder, refusal="^word")).ask([([jpeg(1)], "What is it ?")])
    assert isinstance(answer, Rejected)
    assert answer.reason == Reason.CAPTION_REFUSED


def test_a_folder_without_such_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"caption\.folder .* holds no image-text-to-text model"):
        LocalModel(settings(tmp_path)).ask([([jpeg(1)], "it")])
    save_tiny_model(tmp_path / "plain", chat_template=None)
    with pytest.raises(Unusable, match="has no chat template"):
        LocalModel(settings(tmp_path / "plain")).ask([([jpeg(1)], "it")])


@pytest.mark.usefixtures("ray_cluster")
def test_the_stage_with_a_model_in_a_folder(folder: Path, tmp_path: Path) -> None:
    rows = []
    for i in range(5):
        picture(i).save(tmp_path / f"{i}.png")
        span = {"start_s": 0.0, "fps": 8.0, "n_frames": 1, "rotation_deg": 0, "decoder": "pillow"}
        span |= {"crop_left": 0.0, "crop_top": 0.0, "crop_width": 1.0, "crop_height": 1.0}
        found = {"uri": str(tmp_path / f"{i}.png"), "version": storage.version(str(tmp_path / f"{i}.png"))}
        rows.append({"clip_id": str(i), "caption": None} | found | span | OK)
    storage.put_table(f"{tmp_path}/run/clips/clips.parquet", pa.Table.from_pylist(rows))
    caption = settings(folder, clips_per_part=2, worker_cpus=1, prompts={"caption": "What is it ?"})
    summary = run(Settings(run={"folder": f"{tmp_path}/run"}, caption=caption))  # type: ignore[arg-type]
    assert (summary["clips_asked"], summary["captions"]) == (5, 5)
    assert len({row["caption"] for row in storage.rows(f"{tmp_path}/run/captions")}) == 5
