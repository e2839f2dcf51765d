"""The stage on a folder with everything in it."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from media.made import corners_frame, corners_video, noisy_video, tone, truncated
from vitascope import storage
from vitascope.clips import stage
from vitascope.clips.stage import list_inputs, run
from vitascope.clips.table import CLIPS, VIDEOS
from vitascope.config import Settings
from vitascope.errors import Missing, Mistake
from vitascope.stores import patience
from vitascope.stores import s3 as amazon

pytestmark = pytest.mark.usefixtures("in_process")

LENIENT = {"duplicates": "keep", "filters": {"still_share": {"use": "score"}}}  # the sources are stills


def settings(source: str, folder: str, **clips: Any) -> Settings:
    return Settings.model_validate(
        {"run": {"folder": folder}, "clips": {"input": source, "decode_timeout_s": 20, **LENIENT, **clips}}
    )


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files, bad ones and captions of every kind."""
    folder = tmp_path_factory.mktemp("input")
    corners_video(folder / "good.mp4", size=(96, 64), seconds=3)
    corners_video(folder / "turned.mp4", size=(96, 64), seconds=1, rotation=90)
    noisy_video(folder / "no_caption.mkv", seconds=1)
    truncated(folder / "cut_late.mp4", noisy_video(folder / ".a.mp4", faststart=True), 0.6)
    truncated(folder / "cut_early.mp4", noisy_video(folder / ".b.mp4"), 0.6)
    (folder / "text.mp4").write_text("no video at all\n" * 300)
    (folder / "zero.mp4").touch()
    (folder / "paper.pdf").write_bytes(b"%PDF-1.4\n" * 100)
    (folder / "readme.txt").write_text("not beside any video")
    tone(folder / "sound.mp4")
    corners_video(folder / "tiny.mp4", size=(48, 48), seconds=1)
    (folder / "deep").mkdir()
    Image.fromarray(corners_frame(80, 120)).save(folder / "deep" / "still.png")
    for name in ("good", "cut_late", "turned"):
        (folder / f"{name}.txt").write_text(f"caption of {name}")
    (folder / "captions.csv").write_text("name,caption\ndeep/still.png,a still\ngood.mp4,the sidecar wins\n")
    return folder


@pytest.fixture(scope="module")
def result(
    everything: Path,
    ray_cluster: None,  # noqa: ARG001
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    folder = str(tmp_path_factory.mktemp("run"))
    summary = run(settings(str(everything), folder, captions=str(everything / "captions.csv")))
    videos = {row["name"]: row for row in storage.rows(f"{folder}/videos")}
    return {"summary": summary, "videos": videos, "clips": storage.rows(f"{folder}/clips"), "folder": folder}


@pytest.fixture(scope="module")
def clips_on_s3(
    everything: Path,
    ray_cluster: None,  # noqa: ARG001
    new_bucket: Callable[[], str],
) -> list[dict[str, Any]]:
    """The clips of the same input in a bucket."""
    s3 = new_bucket()
    for path in everything.rglob("*"):
        if path.is_file():
            storage.put(f"{s3}/in/{path.relative_to(everything)}", path.read_bytes())
    run(settings(f"{s3}/in", f"{s3}/run", captions=f"{s3}/in/captions.csv"))
    return storage.rows(f"{s3}/run/clips")


def clips_of(result: dict[str, Any], name: str) -> list[tuple]:
    rows = [row for row in result["clips"] if row["name"] == name]
    return [(row["start_s"], row["end_s"], row["n_frames"], row["status"], row["reason"]) for row in rows]


def test_every_file_has_one_row_with_its_reason(result: dict[str, Any]) -> None:
    reasons = {name: row["reason"] for name, row in result["videos"].items()}
    assert reasons == {
        "good.mp4": None,
        "turned.mp4": None,
        "no_caption.mkv": None,
        "cut_late.mp4": None,
        "deep/still.png": None,
        "cut_early.mp4": "unreadable",
        "text.mp4": "unreadable",
        "paper.pdf": "unreadable",
        "readme.txt": "unreadable",
        "zero.mp4": "empty_file",
        "sound.mp4": "no_video_stream",
        "tiny.mp4": "too_small",
    }
    assert all(row["detail"] for row in result["videos"].values() if row["reason"])
    assert len({row["video_id"] for row in result["videos"].values()}) == len(reasons)


def test_clips_are_cut_and_a_truncated_source_keeps_its_beginning(result: dict[str, Any]) -> None:
    assert clips_of(result, "good.mp4") == [(0, 1, 9, "ok", None), (1, 3, 17, "ok", None)]
    assert clips_of(result, "deep/still.png") == [(0, 0, 1, "ok", None)]
    assert clips_of(result, "no_caption.mkv") == [(0, 1, 9, "dropped", "no_caption")]
    assert clips_of(result, "cut_late.mp4") == [
        (0, 1, 9, "ok", None),
        (1, 2, 9, "ok", None),
        (2.375, 4, 14, "dropped", "decode_failed"),
    ]


def test_the_rotated_video_is_upright(result: dict[str, Any]) -> None:
    (clip,) = [row for row in result["clips"] if row["name"] == "turned.mp4"]
    assert (clip["width"], clip["height"], clip["status"]) == (64, 96, "ok")


def test_captions(result: dict[str, Any]) -> None:
    captions = {row["name"]: row["caption"] for row in result["clips"]}
    assert captions["good.mp4"] == "caption of good"
    assert captions["deep/still.png"] == "a still"
    assert captions["no_caption.mkv"] is None


def test_no_source_is_in_both_splits_and_both_have_some(result: dict[str, Any]) -> None:
    sources = {(row["name"], row["split"]) for row in result["clips"]}
    assert len(sources) == len({name for name, _ in sources})
    assert {row["split"] for row in result["clips"] if row["status"] == "ok"} == {"train", "val"}


def test_the_summary_adds_up(result: dict[str, Any]) -> None:
    summary, rows = result["summary"], [*result["videos"].values(), *result["clips"]]
    assert summary["dropped_by_reason"] == Counter(row["reason"] for row in rows if row["reason"])
    assert (summary["videos_in"], summary["videos_ok"]) == (12, 5)
    assert (summary["clips"], summary["clips_ok"]) == (8, 6)
    assert (summary["scanned"], summary["captions_read"]) == (12, 3)
    assert storage.read_json(f"{result['folder']}/summaries/clips.json") == summary


def test_the_tables_have_their_schemas(result: dict[str, Any]) -> None:
    assert storage.read_table(f"{result['folder']}/videos").schema.equals(VIDEOS)
    assert storage.read_table(f"{result['folder']}/clips").schema.equals(CLIPS)


def test_s3_gives_the_same_tables(result: dict[str, Any], clips_on_s3: list[dict[str, Any]]) -> None:
    keep = set(CLIPS.names) - {"uri", "version", "detail"}
    here = [{key: row[key] for key in keep} for row in result["clips"]]
    assert [{key: row[key] for key in keep} for row in clips_on_s3] == here


def still(path: Path, seed: int) -> None:
    """A picture unlike any other, with a caption."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).resize((160, 120), Image.Resampling.NEAREST).save(path)
    path.with_suffix(".txt").write_text(f"picture {seed}")


def test_a_run_over_more_files_looks_only_at_what_is_new(tmp_path: Path) -> None:
    source, folder = tmp_path / "in", str(tmp_path / "run")
    source.mkdir()
    for i in range(20):
        still(source / f"{i:02d}.png", i)
    first = run(settings(str(source), folder))
    assert (first["scanned"], first["captions_read"], first["clips_ok"]) == (20, 20, 20)
    before = {row["name"]: row for row in storage.rows(f"{folder}/clips")}

    still(source / "03.png", 103)  # other content
    (source / "04.txt").write_text("another caption")
    (source / "05.png").unlink()
    (source / "05.txt").unlink()
    for i in (20, 21):
        still(source / f"{i}.png", i)
    again = run(settings(str(source), folder))
    assert (again["scanned"], again["captions_read"]) == (3, 4)
    now = {row["name"]: row for row in storage.rows(f"{folder}/clips")}
    assert now.keys() == before.keys() - {"05.png"} | {"20.png", "21.png"}
    same = now.keys() & before.keys() - {"03.png", "04.png"}
    assert {name: now[name] for name in same} == {name: before[name] for name in same}
    assert now["03.png"]["clip_id"] != before["03.png"]["clip_id"]
    assert (now["04.png"]["clip_id"], now["04.png"]["caption"]) == (
        before["04.png"]["clip_id"],
        "another caption",
    )
    assert {row["name"] for row in storage.rows(f"{folder}/videos")} == now.keys()


def test_all_captions_are_kept_and_other_weights_read_none_again(tmp_path: Path) -> None:
    source, folder = tmp_path / "in", str(tmp_path / "run")
    source.mkdir()
    still(source / "a.png", 1)
    (source / "a.json").write_text('{"long": "a picture of noise", "raw": "IMG_1"}')
    fields = {"short": 1.0, "long": 0.0, "raw": 0.0}
    run(settings(str(source), folder, caption_fields=fields))
    (first,) = storage.rows(f"{folder}/clips")
    assert first["captions"] == [("short", "picture 1"), ("long", "a picture of noise"), ("raw", "IMG_1")]
    assert first["caption"] == "picture 1"
    again = run(settings(str(source), folder, caption_fields=fields | {"short": 0.0, "long": 1.0}))
    (row,) = storage.rows(f"{folder}/clips")
    assert (again["captions_read"], row["caption"]) == (0, "a picture of noise")
    assert row["captions"] == first["captions"]


def test_other_thresholds_cost_no_decoding_and_what_they_drop_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, folder = tmp_path / "in", str(tmp_path / "run")
    source.mkdir()
    for i in range(4):
        still(source / f"{i}.png", i)
    run(settings(str(source), folder))
    assert "kept" not in capsys.readouterr().out
    strict = run(settings(str(source), folder, filters={"brightness": {"use": "drop", "max": 0.1}}))
    assert (strict["scanned"], strict["clips_ok"]) == (0, 0)
    assert strict["dropped_by_reason"] == {"filter_brightness": 4}
    assert "clips  4 of 4 files used, 0 of 4 clips kept: filter_brightness 4\n" in capsys.readouterr().out
    (detail,) = {row["detail"].partition(" > ")[2] for row in storage.rows(f"{folder}/clips")}
    assert detail == "0.1 (clips.filters.brightness.max)"


def test_copies_are_dropped_and_the_ledger_names_what_is_kept(tmp_path: Path) -> None:
    source, folder = tmp_path / "in", str(tmp_path / "run")
    source.mkdir()
    still(source / "first.png", 1)
    still(source / "other.png", 2)
    (source / "same.png").write_bytes((source / "first.png").read_bytes())
    Image.open(source / "first.png").resize((80, 60)).save(source / "smaller.jpg")
    (source / "same.txt").write_text("the same")
    (source / "smaller.txt").write_text("smaller")
    copies = {"val_names": ["other*"], "duplicates": "near"}
    run(settings(str(source), folder, min_side_px=32, **copies))
    details = {row["name"]: row["detail"] for row in storage.rows(f"{folder}/clips") if row["reason"]}
    assert details.keys() == {"same.png", "smaller.jpg"}
    assert details["same.png"] == "the same bytes as first.png"
    assert details["smaller.jpg"].startswith("duplicate of first.png at 0 s, distance ")
    run(settings(str(source), folder, min_side_px=32, **copies | {"duplicates": "exact"}))
    assert [r["name"] for r in storage.rows(f"{folder}/clips") if r["reason"]] == ["same.png"]


def test_a_store_that_kept_a_file_back_is_asked_again(tmp_path: Path) -> None:
    source, folder = tmp_path / "in", str(tmp_path / "run")
    source.mkdir()
    still(source / "a.png", 1)
    still(source / "b.png", 2)
    (source / "b.png").rename(tmp_path / "elsewhere.png")
    (source / "b.png").symlink_to(tmp_path / "mounted" / "b.png")  # as a disk that is not mounted
    lost = run(settings(str(source), folder))
    assert lost["dropped_by_reason"] == {"unreadable": 1}
    (tmp_path / "mounted").mkdir()
    (tmp_path / "elsewhere.png").rename(tmp_path / "mounted" / "b.png")
    found = run(settings(str(source), folder))
    assert (found["scanned"], found["clips_ok"]) == (1, 2)


def test_a_task_that_ray_does_again_scans_and_commits_nothing_twice(
    everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does when the node with the task's end was lost."""
    ours, folder = settings(str(everything), str(tmp_path / "run")), str(tmp_path / "catalog")
    media = list_inputs(ours)[0].media
    work = {"files": storage.stream_bytes(media.slice(0, 3))}
    done = stage.scan_part(work, settings=ours.clips, folder=folder)
    (committed,) = storage.listing(folder)
    monkeypatch.setattr(stage, "scan", lambda *_: pytest.fail("a file was scanned again"))
    assert stage.scan_part(work, settings=ours.clips, folder=folder) == done
    assert list(storage.listing(folder)) == [committed]


def test_a_slow_file_holds_up_no_commit_of_the_others(
    everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes last, as the largest; results until then survive if its worker is lost."""
    ours, folder = settings(str(everything), str(tmp_path / "run")), str(tmp_path / "catalog")
    media = list_inputs(ours)[0].media
    work = {"files": storage.stream_bytes(media)}
    largest = sorted(media.to_pylist(), key=lambda row: row["size_bytes"])[-1]["name"]
    look, looked = stage.scan, list[str]()

    def scan(item: Any, how: Any) -> dict[str, Any]:
        looked.append(item.name)
        if item.name == largest and len(looked) == len(media):
            raise KeyboardInterrupt  # the end of its worker
        return look(item, how)

    monkeypatch.setattr(stage, "scan", scan)
    monkeypatch.setattr(stage, "COMMIT_S", 0)
    with pytest.raises(KeyboardInterrupt):
        stage.scan_part(work, settings=ours.clips, folder=folder)
    assert looked[-1] == largest
    looked.clear()
    outcomes = stage.scan_part(work, settings=ours.clips, folder=folder)["outcomes"]
    assert (looked, len(outcomes)) == ([largest], len(media))
    (part,) = storage.list_files(folder)
    assert {row["name"] for row in storage.rows(part)} == set(media["name"].to_pylist())


def test_what_is_chosen_in_silence_is_said_and_stands_in_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names in two Unicode forms, a table that matches in part, a linked folder, a hidden file, few files."""
    source, away = tmp_path / "in", tmp_path / "away"
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    for folder in (source, away):
        folder.mkdir()
    for path, colour in ((source / f"{apart}.png", 40), (source / ".hidden.png", 80), (away / "b.png", 120)):
        Image.fromarray(corners_frame(64 + colour, 96)).save(path)
    (source / f"{composed}.txt").write_text("a cup of coffee")
    (source / "link").symlink_to(away)
    (tmp_path / "t.csv").write_text("name,caption\nlink/b.png,linked\nLINK/B.png,of no file\n")
    summary = run(settings(str(source), str(tmp_path / "run"), captions=str(tmp_path / "t.csv")))
    clips = {row["name"]: row["caption"] for row in storage.rows(f"{tmp_path}/run/clips")}
    assert clips == {f"{apart}.png": "a cup of coffee", "link/b.png": "linked"}
    hidden, table, held_out = summary["notes"]
    assert hidden == "passed over in the input: hidden 1"
    assert "1 of 2 names matched a file, 1 did not (such as 'LINK/B.png')" in table
    assert held_out.startswith("held out: 1 of 2 files (50.0%), clips.val_share asks for 5.0%")
    printed = capsys.readouterr().out
    assert all(f"clips  note: {note}" in printed for note in summary["notes"])
    assert storage.read_json(f"{tmp_path}/run/summaries/clips.json")["notes"] == summary["notes"]


def test_a_table_of_other_files_is_told_before_anything_is_scanned(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    corners_video(tmp_path / "in" / "a.mp4", seconds=1)
    (tmp_path / "t.csv").write_text("name,caption\n/data/a.mp4,corners\n")
    with pytest.raises(ValueError, match=r"none of 1 name in .*'/data/a\.mp4', the input has 'a\.mp4'"):
        run(settings(str(tmp_path / "in"), str(tmp_path / "run"), captions=str(tmp_path / "t.csv")))
    assert not (tmp_path / "run" / "catalog").exists()


def test_odd_names_cost_their_own_files_at_most(tmp_path: Path) -> None:
    source, folder = tmp_path / "in", str(tmp_path / "run")
    source.mkdir()
    for name in ("a::b", "café"):
        corners_video(source / f"{name}.mp4", seconds=1)
        (source / f"{name}.txt").write_text("four corners")
    for name in (b"caf\xe9.mp4", b"caf\xe9.txt", b"d\xe9j\xe0.mp4"):  # Latin-1
        Path(os.fsdecode(bytes(source) + b"/" + name)).write_bytes(b"-")
    run(settings(str(source), folder))
    videos = {row["name"]: row for row in storage.rows(f"{folder}/videos")}
    reasons = {name: row["reason"] for name, row in videos.items()}
    assert reasons == {
        "a::b.mp4": None,
        "café.mp4": None,
        r"caf\xe9.mp4": "unreadable",
        r"d\xe9j\xe0.mp4": "unreadable",
    }
    assert videos[r"caf\xe9.mp4"]["uri"] == rf"{source}/caf\xe9.mp4"
    assert "not UTF-8; rename" in videos[r"caf\xe9.mp4"]["detail"]
    assert {row["name"] for row in storage.rows(f"{folder}/clips")} == {"a::b.mp4", "café.mp4"}


def test_odd_keys_of_s3_are_inputs(tmp_path: Path, s3: str) -> None:
    content = corners_video(tmp_path / "a.mp4", seconds=1).read_bytes()
    fs, bucket = storage.filesystem(s3)
    fs.call_s3("put_object", Bucket=bucket, Key="in/", Body=b"")
    storage.put(f"{s3}/in/a::b.mp4", content)
    summary = run(settings(f"{s3}/in/", str(tmp_path / "run")))
    assert (summary["videos_in"], summary["videos_ok"]) == (1, 1)


@pytest.mark.parametrize("store", ["local", "s3"])
def test_folders_are_listed_in_tasks_of_their_own(
    store: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "in") if store == "local" else request.getfixturevalue("s3")
    names = [f"{a}/{b}/{c}.mp4" for a in "xyz" for b in "pq" for c in range(3)] + ["top.mp4", "x/one.mp4"]
    for name in names:
        storage.put(f"{root}/{name}", b"-")
    for folders in (1, 2, 64):
        monkeypatch.setattr(stage, "_FOLDERS", folders)
        found, _ = list_inputs(settings(root, str(tmp_path / "run")))
        assert found.media["name"].to_pylist() == sorted(names)


def test_a_store_that_is_not_known_is_told_before_there_are_tasks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use a local path, s3:// or gs://"):
        run(settings("ftp://host/in", str(tmp_path / "run")))


@pytest.mark.parametrize("below", ["", "/in"])
def test_a_store_that_is_away_is_told_while_it_is_waited_for(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By the driver: what tasks log nobody reads."""
    for name, value in {"BUDGET_S": 2.0, "_SILENT_S": 0.1, "_warned": False}.items():
        monkeypatch.setattr(patience, name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(stage, "list_inputs", lambda _: pytest.fail("tasks were started"))
    amazon.Store.clear_instance_cache()
    try:
        with pytest.raises(storage.Unavailable):
            run(settings(f"s3://bucket{below}", str(tmp_path / "run")))
    finally:
        amazon.Store.clear_instance_cache()
    assert re.findall("the store at s3://bucket does .*127.0.0.1:9.*; trying until", caplog.text)


def test_a_captions_table_without_use_is_told_before_anything_is_scanned(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    corners_video(tmp_path / "in" / "a.mp4", seconds=1)
    (tmp_path / "captions.csv").write_text("file,caption\na.mp4,corners\n")
    with pytest.raises(ValueError, match=r"captions\.csv: expected the columns name and caption"):
        run(settings(str(tmp_path / "in"), str(tmp_path / "run"), captions=str(tmp_path / "captions.csv")))
    assert not (tmp_path / "run" / "catalog").exists()


def test_tables_are_sorted_piece_by_piece_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_SORTED_ROWS", 7)
    draw = np.random.default_rng(0)
    rows = [
        {
            "clip_id": str(i),
            "name": f"{draw.integers(20)}.mp4",
            "start_s": float(draw.random()),
            "captions": {"long": f"clip {i}"} if i % 3 else None,
            "caption": f"clip {i}" if i % 3 else None,
        }
        for i in range(100)
    ]
    clips = pa.Table.from_pylist(rows, schema=pa.schema([CLIPS.field(name) for name in rows[0]]))
    for table in (clips, clips.slice(0, 0)):
        ours = storage.in_order(table, "name", "start_s")
        assert ours.equals(table.sort_by([("name", "ascending"), ("start_s", "ascending")]))


def test_an_input_that_was_moved_is_found_where_it_is_now(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    corners_video(before / "a.mp4", seconds=1)
    (before / "a.txt").write_text("corners")
    how = {"catalog": str(tmp_path / "catalog")}
    assert run(settings(str(before), str(tmp_path / "one"), **how))["scanned"] == 1
    before.rename(after)
    assert run(settings(str(after), str(tmp_path / "two"), **how))["scanned"] == 0
    rows = [row for table in ("videos", "clips") for row in storage.rows(str(tmp_path / "two" / table))]
    assert {row["uri"] for row in rows} == {str(after / "a.mp4")}


def test_sidecars_and_the_table_may_each_have_some_fields(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a", "b"):
        corners_video(source / f"{name}.mp4", seconds=1)
    (source / "a.json").write_text('{"short": "corners"}')
    (source / "b.json").write_text('{"fps": 10}')
    table = tmp_path / "table.csv"
    table.write_text("name,short,long\na.mp4,ignored,four coloured corners\nb.mp4,of the table,\n")
    how = {"captions": str(table), "caption_fields": {"short": 1.0, "long": 1.0}}
    run(settings(str(source), str(tmp_path / "run"), **how))
    rows = {row["name"]: dict(row["captions"]) for row in storage.rows(str(tmp_path / "run" / "clips"))}
    assert rows == {
        "a.mp4": {"short": "corners", "long": "four coloured corners"},
        "b.mp4": {"short": "of the table"},
    }


@pytest.mark.parametrize("store", ["local", "s3"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_captions_table_in_parts_may_lie_in_the_input(
    store: str, slash: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = str(tmp_path) if store == "local" else request.getfixturevalue("s3")
    still(tmp_path / "a.png", 1)
    storage.put(f"{base}/in/a.png", (tmp_path / "a.png").read_bytes())
    table = f"{base}/in/captions.parquet"
    storage.put_table(f"{table}/part-0.parquet", pa.table({"name": ["a.png"], "caption": ["a picture"]}))
    storage.put(f"{table}/_SUCCESS", b"")
    run(settings(f"{base}/in", f"{base}/run", captions=table + slash))
    assert [row["name"] for row in storage.rows(f"{base}/run/videos")] == ["a.png"]
    assert [row["caption"] for row in storage.rows(f"{base}/run/clips")] == ["a picture"]


def test_a_run_does_not_take_its_own_output_for_input(tmp_path: Path) -> None:
    corners_video(tmp_path / "a.mp4", seconds=1)
    with pytest.raises(ValueError, match=r"lies in clips\.input .* set run\.folder to a place outside"):
        run(settings(str(tmp_path), str(tmp_path / "run")))


@pytest.mark.parametrize("store", ["local", "s3"])
def test_what_is_missing_is_noticed_before_ray_starts(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(stage.local, "connect", lambda _: pytest.fail("Ray was started"))
    root = str(tmp_path) if store == "local" else request.getfixturevalue("s3")
    (tmp_path / "empty").mkdir()
    for place in ["none", "empty"]:
        with pytest.raises(Mistake, match=rf"no media files under .*/{place}; set clips\.input"):
            run(settings(f"{root}/{place}", str(tmp_path / "run")))
    storage.put(f"{root}/in/a.mp4", b"x")
    with pytest.raises(Missing, match=r"no captions table at .*/none\.csv; set clips\.captions"):
        run(settings(f"{root}/in", str(tmp_path / "run"), captions=f"{root}/none.csv"))


def test_no_input_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clips\.input is not set; set clips\.input to a folder"):
        run(Settings.model_validate({"run": {"folder": str(tmp_path / "run")}}))
    with pytest.raises(ValueError, match=r"set clips\.input"):
        run(settings(str(tmp_path / "nothing"), str(tmp_path / "run")))
