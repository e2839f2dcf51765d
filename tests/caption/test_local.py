"""Captions from a transformers model in a folder."""

import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from staged import clip, kill_workers, wait_for
from tiny_model import save_tiny_model
from transformers import LlavaForConditionalGeneration

from vitascope import storage
from vitascope.caption.answers import Unusable
from vitascope.caption.local import LocalModel
from vitascope.caption.settings import CaptionSettings
from vitascope.caption.stage import _with_pictures, _Worker, run
from vitascope.config import Settings
from vitascope.ledger import Reason, Rejected
from vitascope.precision import fastest
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
        ([jpeg(2), jpeg(3)], "it"),  # of another length, so that padding is needed
        ([jpeg(4)], "What is it ?"),
    ]
    answers = LocalModel(settings(folder, batch_size=2)).ask(questions)
    assert answers == [by_hand(folder, *question) for question in questions]
    assert len(set(answers)) == 3


def test_a_question_that_fails_costs_only_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(settings(folder))
    generate = LlavaForConditionalGeneration.generate

    def out_of_memory(self: Any, **inputs: Any) -> torch.Tensor:
        if len(inputs["pixel_values"]) > 2:
            raise RuntimeError("out of memory")
        return generate(self, **inputs)

    monkeypatch.setattr(LlavaForConditionalGeneration, "generate", out_of_memory)
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


def put_clips(folder: Path, n: int) -> None:
    """A clip table of pictures: "0", "1", …"""
    rows = []
    for i in range(n):
        picture(i).save(folder / f"{i}.png")
        rows.append(clip(str(i), str(folder / f"{i}.png")) | OK)
    storage.put_table(f"{folder}/run/clips/clips.parquet", pa.Table.from_pylist(rows))


def stage(model: Path, folder: Path, **more: Any) -> Settings:
    asked = {"worker_cpus": 1, "prompts": {"caption": "What is it ?"}} | more
    return Settings(run={"folder": f"{folder}/run"}, caption=settings(model, **asked))  # type: ignore[arg-type]


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The committed rows, by clip; exactly one for each."""
    rows = storage.rows(f"{folder}/run/captions")
    assert max(Counter(row["clip_id"] for row in rows).values()) == 1
    return {row["clip_id"]: row for row in rows}


@pytest.mark.usefixtures("in_process")
def test_the_stage_with_a_model_in_a_folder(folder: Path, tmp_path: Path) -> None:
    put_clips(tmp_path, 5)
    summary = run(stage(folder, tmp_path, clips_per_part=2))
    assert (summary["clips_asked"], summary["captions"]) == (5, 5)
    assert len({row["caption"] for row in rows_of(tmp_path).values()}) == 5


@pytest.mark.usefixtures("in_process")
def test_a_clip_that_cannot_be_seen_costs_only_itself(folder: Path, tmp_path: Path) -> None:
    put_clips(tmp_path, 5)
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "3.png").unlink()
    summary = run(stage(folder, tmp_path, clips_per_part=3))
    rows = rows_of(tmp_path)
    assert {i: row["reason"] for i, row in rows.items() if row["reason"]} == {
        "1": Reason.SOURCE_CHANGED,
        "3": Reason.DECODE_FAILED,
    }
    assert "scanned as" in rows["1"]["detail"]
    assert "3.png" in rows["3"]["detail"]
    assert [i for i, row in rows.items() if row["caption"]] == ["0", "2", "4"]
    assert summary["captions"] == 3
    assert summary["dropped_by_reason"] == {"source_changed": 1, "decode_failed": 1}


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_actor_costs_its_part_at_most(folder: Path, tmp_path: Path) -> None:
    n = 12
    put_clips(tmp_path, n)

    def kill() -> tuple[int, int]:
        """The number of killed actors, and the parts that existed then."""
        wait_for(lambda: len(storage.list_files(f"{tmp_path}/run/captions")) >= 2)
        killed = kill_workers("ray::MapWorker(Map(_Worker")
        return len(killed), len(storage.list_files(f"{tmp_path}/run/captions"))

    with ThreadPoolExecutor(1) as aside:
        killing = aside.submit(kill)
        summary = run(stage(folder, tmp_path, clips_per_part=1, max_tokens=100))
        n_killed, n_parts = killing.result()
    assert n_killed == 1
    assert n_parts < n, "killed too late"
    assert (summary["captions"], summary["dropped_by_reason"]) == (n, {})
    assert len(storage.list_files(f"{tmp_path}/run/captions")) == n
    assert {row["caption"] is not None for row in rows_of(tmp_path).values()} == {True}
    assert rows_of(tmp_path).keys() == set(map(str, range(n)))


def test_who_decodes_the_clips_changes_nothing(folder: Path, tmp_path: Path) -> None:
    put_clips(tmp_path, 3)
    (tmp_path / "1.png").write_bytes(b"no picture")
    clips = [row | {"fields": ["caption"]} for row in storage.rows(f"{tmp_path}/run/clips")]
    part = {"file": "part.parquet", "clips": clips}
    how = {"settings": stage(folder, tmp_path).caption, "timeout_s": 60.0}
    seen = _with_pictures(part, **how)
    assert "clips" not in seen
    done = [
        _Worker(folder=f"{tmp_path}/{name}", **how)(given)
        for name, given in (("itself", part), ("before", seen))
    ]
    assert done[0] == done[1]
    assert done[0]["outcomes"] == ["source_changed", "ok", "ok"]
    rows = storage.rows(f"{tmp_path}/itself")
    assert rows == storage.rows(f"{tmp_path}/before")
    assert len({row["caption"] for row in rows}) == 3


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_computes_in_what_is_fast_here(tmp_path: Path, stored: torch.dtype) -> None:
    save_tiny_model(tmp_path)
    LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=stored).save_pretrained(tmp_path)
    model = LocalModel(settings(tmp_path))
    assert model._load()[1].dtype == fastest(torch.device("cpu"), stored)
    assert isinstance(model.ask([([jpeg(1)], "What is it ?")])[0], str)
