"""The stage on tars: what they hold counts like the files of a folder."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from in_process import stand_in
from media.made import corners_frame, corners_video, noisy_video, timed_video
from vitascope import storage
from vitascope.clips.stage import run
from vitascope.config import Settings
from vitascope.media import tars
from vitascope.media.clip import Clip

pytestmark = pytest.mark.usefixtures("in_process")


def settings(source: str, folder: str, **clips: Any) -> Settings:
    lenient = {"still_share": {"use": "score"}, "contrast": {"use": "score"}}
    fields = {"caption": 1.0, "tags": 1.0}
    ours = {"input": source, "duplicates": "keep", "filters": lenient, "caption_fields": fields}
    return Settings.model_validate({"run": {"folder": folder}, "clips": ours | clips})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder called like a tar, with files like a tar's."""
    folder = tmp_path_factory.mktemp("in") / "shard.tar"
    (folder / "deep").mkdir(parents=True)
    corners_video(folder / "000.mp4", seconds=2)
    (folder / "000.txt").write_text("four corners")
    noisy_video(folder / "001.mkv", seconds=2)
    (folder / "001.json").write_text(json.dumps({"caption": "noise", "tags": ["grey", "loud"]}))
    timed_video(folder / "002.mp4", [0, 100, 400, 500, 900, 1500, 2000])
    (folder / "002.txt").write_text("steps of grey")
    (folder / "002.json").write_text(json.dumps({"tags": "steps"}))
    Image.fromarray(corners_frame(80, 120)).save(folder / "deep" / "003.png")
    (folder / "deep" / "003.txt").write_text("a still")
    (folder / "004.mp4").write_text("no video" * 100)
    (folder / "005.mp4").touch()
    return folder


@pytest.fixture(scope="module")
def tar(folder: Path) -> bytes:
    """The folder as a tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, str(path.relative_to(folder)), recursive=False)
    return file.getvalue()


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list, list]:
    """The tables of the folder."""
    run_folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        summary = run(settings(str(folder.parent), str(run_folder)))
    assert (summary["videos_in"], summary["videos_ok"], summary["tars_listed"]) == (6, 4, 0)
    return tables(str(run_folder))


def tables(folder: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return storage.rows(f"{folder}/videos"), storage.rows(f"{folder}/clips")


def without(rows: list[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in columns} for row in rows]


@pytest.mark.parametrize("store", ["local", "s3"])
def test_a_tar_gives_the_clips_of_its_files(
    store: str, tar: bytes, expected: tuple[list, list], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = str(tmp_path) if store == "local" else request.getfixturevalue("s3")
    storage.put(f"{base}/in/shard.tar", tar)
    ours = settings(f"{base}/in", f"{base}/run")
    summary = run(ours)
    assert (summary["tars_listed"], summary["scanned"], summary["captions_read"]) == (1, 6, 4)
    videos, clips = tables(f"{base}/run")
    own = ("uri", "version", "detail", "decoder")
    assert without(videos, *own) == without(expected[0], *own)
    assert without(clips, *own) == without(expected[1], *own)
    texts = [dict(row["captions"]) for row in clips if row["name"].endswith("002.mp4")]
    assert texts[0] == {"caption": "steps of grey", "tags": "steps"}
    for mine, theirs in zip(clips, expected[1], strict=True):
        np.testing.assert_array_equal(frames(mine), frames(theirs), err_msg=mine["name"])
    again = run(ours)
    looked = [again[key] for key in ("tars_listed", "scanned", "captions_read")]
    assert looked == [0, 0, 0]
    assert tables(f"{base}/run") == (videos, clips)


def frames(clip: dict[str, Any]) -> np.ndarray:
    return Clip.of_row(clip).frames(size=(48, 64))


def test_a_tar_damaged_in_the_middle_gives_what_comes_before_and_a_row(
    tar: bytes, expected: tuple[list, list], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    at = next(m for m in list_of(tar, tmp_path) if m.name == "001.mkv").start
    broken = bytearray(tar)
    broken[at - 512 : at] = b"\x07" * 512  # its header
    (tmp_path / "in" / "shard.tar").write_bytes(broken)
    (tmp_path / "in" / "cut.tar").write_bytes(tar[: at + 100])
    (tmp_path / "in" / "none.tar").write_bytes(b"no tar")
    run(settings(str(tmp_path / "in"), str(tmp_path / "run")))
    videos, clips = tables(str(tmp_path / "run"))
    details = {row["name"]: row["detail"] for row in videos if row["status"] == "dropped"}
    assert details["cut.tar"] == "ends within 001.mkv; 3 files in it can be read"
    assert details["shard.tar"].startswith("is damaged")
    assert details["none.tar"].startswith("is no plain tar")
    assert {row["reason"] for row in videos if row["name"].endswith(".tar")} == {"unreadable"}
    own = ("uri", "version", "detail", "decoder")
    whole = without([row for row in expected[1] if "000.mp4" in row["name"]], *own)
    assert [row for row in without(clips, *own) if row["name"].startswith("shard.tar")] == whole
    assert run(settings(str(tmp_path / "in"), str(tmp_path / "run")))["tars_listed"] == 0


def list_of(tar: bytes, folder: Path) -> tuple[tars.Member, ...]:
    (folder / "whole.tar").write_bytes(tar)
    return tars.list_members(str(folder / "whole.tar")).members


def test_a_tar_that_has_changed_is_listed_again(tar: bytes, tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        storage.put(f"{tmp_path}/in/{name}", tar)
    ours = settings(str(tmp_path / "in"), str(tmp_path / "run"))
    assert run(ours)["tars_listed"] == 2
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as small:
        entry = tarfile.TarInfo("new.txt")
        small.addfile(entry)
    storage.put(f"{tmp_path}/in/b.tar", file.getvalue())
    summary = run(ours)
    assert (summary["tars_listed"], summary["scanned"], summary["videos_in"]) == (1, 1, 7)
    assert {row["name"] for row in tables(str(tmp_path / "run"))[0] if row["name"].startswith("b.tar")} == {
        "b.tar/new.txt"
    }
