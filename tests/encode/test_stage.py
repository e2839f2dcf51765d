"""The encode stage on real clips: samples, drops, reruns and kills."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from encode.test_shards import make_old
from media.made import read_clip
from vitascope import storage
from vitascope.config import Settings, load
from vitascope.encode import stage
from vitascope.encode.buckets import Limits, Patching
from vitascope.encode.codecs import make_codec, psnr_db
from vitascope.encode.encoder import ShardEncoder
from vitascope.encode.fingerprint import fingerprint, latents_folder
from vitascope.encode.frames import decode_shard, pixels_of
from vitascope.encode.plan import PlannedShard, make_tasks
from vitascope.encode.settings import STRIDES, EncodeSettings
from vitascope.encode.shards import read_samples, shard_uri
from vitascope.encode.verify import verify
from vitascope.media.geometry import Crop
from vitascope.media.readers import NoDevice
from vitascope.records import DROPS, LATENTS, SAMPLES

BIKES_AT = {"width": 640, "height": 272}


def settings_for(run: str, *overrides: str) -> Settings:
    small = ["encode.max_pixels=8192", "encode.shard_tokens=150", f'run.folder="{run}"']
    return load(None, [*small, *overrides])


Rows = list[dict[str, Any]]
PutClips = Callable[[str, Rows], None]


@pytest.fixture
def real_clips(tmp_path: Path, media: Any, clip_row: Callable[..., dict[str, Any]]) -> Rows:
    """Four good clips of three sizes, one that is no video and one that is too short for its times."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video" * 100)
    return [
        clip_row(media.bikes, start_s=0.0, **BIKES_AT),
        clip_row(media.bikes, start_s=4.0, split="val", caption="", **BIKES_AT),
        clip_row(
            media.bunny, width=1280, height=720, n_frames=17, caption="a rabbit in a meadow", decoder="decord"
        ),
        clip_row(
            media.china, kind="image", n_frames=1, width=640, height=427, decoder="pillow", caption="a temple"
        ),
        clip_row(str(broken)),
        clip_row(media.bikes, start_s=60.0, **BIKES_AT),
    ]


def count_work(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shard numbers that `run` hands to Ray from now on."""
    handed: list[int] = []
    execute = stage._execute

    def counted(settings: Settings, latents: str, plan: list[PlannedShard]) -> Any:
        handed.extend(shard.number for shard in plan)
        return execute(settings, latents, plan)

    monkeypatch.setattr(stage, "_execute", counted)
    return handed


@pytest.fixture
def without_index(
    tmp_path: Path,
    real_clips: Rows,
    put_clips: PutClips,
    monkeypatch: pytest.MonkeyPatch,
    in_process: None,  # noqa: ARG001
) -> Settings:
    """Of a run of two clips that ended when all its shards were written."""
    settings = settings_for(str(tmp_path / "run"))
    put_clips(settings.run.folder, real_clips[:2])
    with monkeypatch.context() as patched:
        patched.setattr(stage, "_commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stage.run(settings)
    return settings


def latents_of(folder: str) -> dict[int, torch.Tensor]:
    index = storage.rows(storage.join(folder, "index.parquet"))
    samples = read_samples(folder, [(row["shard"], row["row"]) for row in index])
    assert [sample.sample_id for sample in samples] == [row["sample_id"] for row in index]
    return {sample.sample_id: sample.latent for sample in samples}


@pytest.mark.usefixtures("ray_cluster")
def test_clips_become_samples_and_bad_ones_drops(
    tmp_path: Path,
    real_clips: Rows,
    put_clips: PutClips,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    settings = settings_for(str(tmp_path / "run"))
    put_clips(settings.run.folder, real_clips)
    summary = stage.run(settings)
    said = capsys.readouterr().out
    assert "encode  4 samples, 2 dropped: " in said
    assert {"unreadable 1", "decode_failed 1"} == set(said.strip().rpartition(": ")[2].split(", "))
    assert (summary["samples"], summary["samples_train"], summary["samples_val"]) == (4, 3, 1)
    assert summary["dropped_by_reason"] == {"unreadable": 1, "decode_failed": 1}
    assert {row["size"]: row["samples"] for row in summary["sizes"]} == {
        "1x64x96": 1,
        "9x48x128": 2,
        "17x64x112": 1,
    }
    assert summary["codec_psnr_db"] > 25
    assert storage.read_json(settings.path("summaries", "encode.json")) == summary

    folder = latents_folder(settings)
    assert folder.endswith(summary["fingerprint"])
    index = storage.read_table(storage.join(folder, "index.parquet"))
    assert index.schema.equals(SAMPLES)
    assert storage.read_table(storage.join(folder, "drops.parquet")).schema.equals(DROPS)
    shards = [f for f in storage.list_files(folder) if "/shard-" in f]
    assert len(shards) > 1
    assert all(storage.read_table(shard).schema.equals(LATENTS) for shard in shards)
    note = storage.read_json(storage.join(folder, "encode.json"))
    assert EncodeSettings(**note["encode"]) == settings.encode
    assert (note["patch"], note["channels"], note["text_dim"]) == (2, settings.encode.dct_channels, 384)

    by_caption = {row["caption"]: row for row in index.to_pylist()}
    temple = by_caption["a temple"]
    assert (temple["latent_frames"], temple["latent_height"], temple["latent_width"]) == (1, 8, 12)
    assert temple["n_text"] == 4
    assert by_caption[""]["n_text"] == 0
    sample = read_samples(folder, [(temple["shard"], temple["row"])])[0]
    (picture,) = make_codec(settings.encode).decode(sample.latent)
    assert picture.shape == (1, 64, 96, 3)
    assert picture.float().std() > 20

    handed = count_work(monkeypatch)
    visible = [shard_uri(folder, number) for number in index["shard"].unique().to_pylist()]
    before = {f: storage.read_bytes(f) for f in [*visible, storage.join(folder, "index.parquet")]}
    again = stage.run(settings)
    assert len(handed) == 1  # for the two clips that failed to decode
    assert {f: storage.read_bytes(f) for f in before} == before
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in summary.items() if k != "seconds"
    }


@pytest.mark.usefixtures("in_process")
def test_a_clip_that_could_not_be_read_is_tried_again(
    tmp_path: Path, media: Any, clip_row: Callable[..., dict[str, Any]], put_clips: PutClips
) -> None:
    settings = settings_for(str(tmp_path / "run"))
    late = tmp_path / "late.jpg"
    facts: dict[str, Any] = {"kind": "image", "n_frames": 1, "width": 640, "height": 427, "decoder": "pillow"}
    late.write_bytes(Path(media.china).read_bytes())
    there, not_there = clip_row(media.china, **facts), clip_row(str(late), caption="a temple", **facts)
    put_clips(settings.run.folder, [there, not_there])
    late.rename(tmp_path / "away.jpg")
    summary = stage.run(settings)
    assert (summary["samples"], summary["dropped_by_reason"]) == (1, {"decode_failed": 1})
    (tmp_path / "away.jpg").rename(late)
    summary = stage.run(settings)
    assert (summary["samples"], summary["dropped_by_reason"]) == (2, {})
    assert len(latents_of(latents_folder(settings))) == 2


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_file_written_over_since_it_was_scanned_is_not_taken_for_the_one_that_was(
    tmp_path: Path, s3: str, media: Any, clip_row: Any, put_clips: PutClips, place: str
) -> None:
    source = storage.join(str(tmp_path) if place == "disk" else s3, "film.mp4")
    settings = settings_for(str(tmp_path / "run"))
    storage.put(source, Path(media.bunny).read_bytes())
    of_the_first = clip_row(source, **BIKES_AT)
    storage.put(source, Path(media.bikes).read_bytes())
    of_the_second = clip_row(source, start_s=4.0, **BIKES_AT)
    put_clips(settings.run.folder, [of_the_first, of_the_second])
    summary = stage.run(settings)
    assert (summary["samples"], summary["dropped_by_reason"]) == (1, {"source_changed": 1})
    (drop,) = storage.rows(storage.join(latents_folder(settings), "drops.parquet"))
    assert drop["clip_id"] == of_the_first["clip_id"]
    assert drop["detail"].endswith("; run vitascope clips again")


@pytest.mark.usefixtures("in_process")
def test_killed_before_the_index_nothing_is_visible_and_the_rest_is_done_later(
    tmp_path: Path, real_clips: Rows, put_clips: PutClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = settings_for(str(tmp_path / "whole"))
    put_clips(whole.run.folder, real_clips)
    expected = stage.run(whole)

    killed = settings_for(str(tmp_path / "killed"))
    put_clips(killed.run.folder, real_clips)
    folder = latents_folder(killed)

    def die_after_one(settings: Settings, latents: str, plan: list[PlannedShard]) -> Any:
        yield from execute(settings, latents, plan[:1])
        raise KeyboardInterrupt

    execute = stage._execute
    with monkeypatch.context() as patched:
        patched.setattr(stage, "_execute", die_after_one)
        with pytest.raises(KeyboardInterrupt):
            stage.run(killed)
    assert sum("/shard-" in file for file in storage.list_files(folder)) == 1
    assert not storage.exists(storage.join(folder, "index.parquet"))

    handed = count_work(monkeypatch)
    summary = stage.run(killed)
    assert 0 not in handed
    assert len(handed) >= 1
    assert {**summary, "seconds": 0} == {**expected, "seconds": 0}
    index, whole_index = (
        storage.rows(storage.join(f, "index.parquet")) for f in (folder, latents_folder(whole))
    )
    assert index == whole_index
    done, undisturbed = latents_of(folder), latents_of(latents_folder(whole))
    assert done.keys() == undisturbed.keys()
    assert all(torch.equal(done[i], undisturbed[i]) for i in done)


@pytest.mark.usefixtures("in_process")
def test_shards_taken_over_have_the_splits_of_the_table_as_it_is_now(
    without_index: Settings, real_clips: Rows, put_clips: PutClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = without_index
    put_clips(settings.run.folder, [row | {"split": "val"} for row in real_clips[:2]])
    handed = count_work(monkeypatch)
    assert stage.run(settings)["samples_val"] == 2
    assert handed == []


@pytest.mark.usefixtures("in_process")
def test_shards_of_a_killed_run_that_were_planned_otherwise_are_made_again(
    without_index: Settings, real_clips: Rows, put_clips: PutClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = without_index
    put_clips(settings.run.folder, [row | {"caption": "another"} for row in real_clips[:2]])
    handed = count_work(monkeypatch)
    assert stage.run(settings)["samples"] == 2
    assert handed
    index = storage.rows(storage.join(latents_folder(settings), "index.parquet"))
    assert {row["caption"] for row in index} == {"another"}
    assert len(latents_of(latents_folder(settings))) == 2


@pytest.mark.usefixtures("in_process")
def test_a_run_whose_shards_another_run_has_made_its_own_ends_with_an_error(
    tmp_path: Path, real_clips: Rows, put_clips: PutClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the captions changed in between; the other run's result stays."""
    settings = settings_for(str(tmp_path / "run"))
    execute = stage._execute

    def meanwhile(settings: Settings, latents: str, plan: list[PlannedShard]) -> Any:
        yield from execute(settings, latents, plan)
        monkeypatch.setattr(stage, "_execute", execute)
        put_clips(settings.run.folder, [row | {"caption": "another"} for row in real_clips[:2]])
        stage.run(settings)

    put_clips(settings.run.folder, real_clips[:2])
    monkeypatch.setattr(stage, "_execute", meanwhile)
    with pytest.raises(RuntimeError, match=r"are not those just written: .*, or another run wrote its own"):
        stage.run(settings)
    index = storage.rows(storage.join(latents_folder(settings), "index.parquet"))
    assert {row["caption"] for row in index} == {"another"}
    assert len(latents_of(latents_folder(settings))) == 2


@pytest.mark.usefixtures("in_process")
def test_a_shard_that_is_gone_is_noticed(tmp_path: Path, real_clips: Rows, put_clips: PutClips) -> None:
    settings = settings_for(str(tmp_path / "run"))
    put_clips(settings.run.folder, real_clips[:2])
    stage.run(settings)
    Path(shard_uri(latents_folder(settings), 0)).unlink()
    with pytest.raises(ValueError, match=r"shards \[0\] of .* are damaged or not there.* verify --forget"):
        stage.run(settings)


@pytest.mark.usefixtures("in_process")
def test_a_damaged_shard_is_told_where_the_index_names_it_and_else_encoded_again(
    tmp_path: Path, real_clips: Rows, put_clips: PutClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(str(tmp_path / "run"))
    put_clips(settings.run.folder, [real_clips[i] for i in (0, 1, 3)])
    stage.run(settings)
    folder = latents_folder(settings)
    index, facts, shard = (
        Path(folder, "index.parquet"),
        Path(folder, "encode.json"),
        Path(shard_uri(folder, 0)),
    )
    before, facts_before, whole = storage.rows(str(index)), facts.read_bytes(), shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"shards \[0\] of .* are damaged or not there.* verify --forget"):
        stage.run(settings)
    index.unlink()
    handed = count_work(monkeypatch)
    stage.run(settings)
    assert handed == [0]
    assert storage.rows(str(index)) == before
    assert facts.read_bytes() == facts_before


@pytest.mark.usefixtures("in_process")
def test_new_clips_are_added_and_gone_ones_leave_the_index(
    tmp_path: Path, real_clips: Rows, put_clips: PutClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(str(tmp_path / "run"))
    first, second, temple = (real_clips[i] for i in (0, 1, 3))
    put_clips(settings.run.folder, [first, temple])
    assert stage.run(settings)["samples"] == 2
    folder = latents_folder(settings)
    before = {row["clip_id"]: row for row in storage.rows(storage.join(folder, "index.parquet"))}

    put_clips(settings.run.folder, [temple, second])
    handed = count_work(monkeypatch)
    assert stage.run(settings)["samples"] == 2
    after = {row["clip_id"]: row for row in storage.rows(storage.join(folder, "index.parquet"))}
    assert after.keys() == {temple["clip_id"], second["clip_id"]}
    assert after[temple["clip_id"]] == before[temple["clip_id"]]
    assert handed == [max(row["shard"] for row in before.values()) + 1]
    assert len(latents_of(folder)) == 2


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_with_facts_in_the_footers_of_its_shards_goes_on(
    tmp_path: Path, real_clips: Rows, put_clips: PutClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(str(tmp_path), "encode.shard_tokens=16")
    good = [real_clips[i] for i in (0, 1, 3)]
    put_clips(settings.run.folder, good[:2])
    stage.run(settings)
    folder = latents_folder(settings)
    index = storage.rows(storage.join(folder, "index.parquet"))
    before = latents_of(folder)
    for row in index:
        make_old(shard_uri(folder, row["shard"]))
    put_clips(settings.run.folder, good[:1])
    stage.run(settings)
    put_clips(settings.run.folder, good)
    handed = count_work(monkeypatch)
    assert stage.run(settings)["samples"] == 3
    assert handed == [2]
    after = storage.rows(storage.join(folder, "index.parquet"))
    assert [row for row in after if row["shard"] < 2] == index
    latents = latents_of(folder)
    assert all(torch.equal(latents[i], before[i]) for i in before)
    assert verify(settings).problems == {}


@pytest.mark.usefixtures("in_process")
def test_clips_that_go_and_come_back_are_not_encoded_again(
    tmp_path: Path, real_clips: Rows, put_clips: PutClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(str(tmp_path), "encode.shard_tokens=16")
    good = [real_clips[i] for i in (0, 1, 3)]
    put_clips(settings.run.folder, good)
    stage.run(settings)
    index = storage.rows(storage.join(latents_folder(settings), "index.parquet"))
    before = latents_of(latents_folder(settings))
    put_clips(settings.run.folder, good[:1])  # a stricter threshold
    handed = count_work(monkeypatch)
    assert stage.run(settings)["samples"] < len(index)
    put_clips(settings.run.folder, good)  # and back
    stage.run(settings)
    assert handed == []
    assert storage.rows(storage.join(latents_folder(settings), "index.parquet")) == index
    after = latents_of(latents_folder(settings))
    assert all(torch.equal(after[i], before[i]) for i in before)


@pytest.mark.usefixtures("in_process")
def test_several_sizes_of_a_clip_come_from_one_decode(
    tmp_path: Path, media: Any, clip_row: Any, put_clips: PutClips
) -> None:
    """And if a clip ends too early, its shorter sizes are still made."""
    rows = [clip_row(media.bikes, start_s=start_s, n_frames=17, **BIKES_AT) for start_s in (0.0, 5.0)]
    rows.append(clip_row(media.bikes, start_s=8.9, n_frames=17, **BIKES_AT))  # of 10 s
    table = "encode.buckets=[[17, 112, 272], [9, 64, 144]]"
    settings = settings_for(str(tmp_path / "run"), table, "encode.sizes_per_clip=2")
    put_clips(settings.run.folder, rows)
    summary = stage.run(settings)
    assert {row["size"]: row["samples"] for row in summary["sizes"]} == {"9x64x144": 3, "17x112x272": 2}
    assert summary["dropped_by_reason"] == {"decode_failed": 1}
    several = latents_of(latents_folder(settings))

    alone = settings_for(str(tmp_path / "alone"), table)
    put_clips(alone.run.folder, rows[:2])
    stage.run(alone)
    for sample_id, latent in latents_of(latents_folder(alone)).items():
        assert torch.equal(several[sample_id], latent)


@pytest.mark.usefixtures("in_process")
def test_a_letterboxed_clip_is_encoded_without_its_bars(
    tmp_path: Path, media: Any, clip_row: Any, put_clips: PutClips
) -> None:
    settings = settings_for(str(tmp_path / "run"))
    crop = {"crop_left": 0.25, "crop_top": 0.25, "crop_width": 0.5, "crop_height": 0.5}
    put_clips(settings.run.folder, [clip_row(media.bikes, width=320, height=136, **crop)])
    stage.run(settings)
    folder = latents_folder(settings)
    (row,) = storage.rows(storage.join(folder, "index.parquet"))
    (latent,) = latents_of(folder).values()
    wanted = read_clip(
        media.bikes,
        fps=8.0,
        n_frames=9,
        size=(row["height"], row["width"]),
        crop=Crop(0.25, 0.25, 0.5, 0.5),
        decoder="pyav",
    )
    assert psnr_db(torch.from_numpy(wanted), make_codec(settings.encode).decode(latent)) > 25


@pytest.mark.usefixtures("in_process")
def test_what_the_latents_are_like_is_told(tmp_path: Path, real_clips: Rows, put_clips: PutClips) -> None:
    settings = settings_for(str(tmp_path / "run"))
    put_clips(settings.run.folder, real_clips)
    stage.run(settings)
    folder = latents_folder(settings)
    facts = storage.read_json(storage.join(folder, "encode.json"))
    pixels = torch.cat([latent.flatten(0, 2).double() for latent in latents_of(folder).values()])
    torch.testing.assert_close(
        torch.tensor(facts["channel_mean"]).double(), pixels.mean(0), rtol=0, atol=1e-6
    )
    std = pixels.std(0, correction=0)
    torch.testing.assert_close(torch.tensor(facts["channel_std"]).double(), std, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("in_process")
def test_a_shard_that_no_node_has_the_memory_for_is_not_waited_for(
    tmp_path: Path, real_clips: Rows, put_clips: PutClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_DECODER_BYTES", 1 << 50)
    settings = settings_for(str(tmp_path / "run"))
    put_clips(settings.run.folder, real_clips)
    with pytest.raises(ValueError, match=r"\(encode\.shard_tokens\) need .* GiB on a node, the largest has"):
        stage.run(settings)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("gpus", ["encode.gpus=1", "encode.nvdec_gpus=0.5"])
def test_gpus_that_a_local_cluster_lacks_are_not_waited_for(
    tmp_path: Path, real_clips: Rows, put_clips: PutClips, gpus: str
) -> None:
    settings = settings_for(str(tmp_path / "run"), gpus)
    put_clips(settings.run.folder, real_clips)
    with pytest.raises(ValueError, match=r"need 2 CPUs and (1|0\.5) GPUs at once, the cluster has .* 0 GPUs"):
        stage.run(settings)


def decoded(clip: dict[str, Any], *, nvdec: bool = False) -> pa.Table:
    """A shard 0 of one clip."""
    tasks, _ = make_tasks([clip], settings_for("a").encode, Limits(Patching(STRIDES["dct"], patch=2), 5000))
    plan = pa.Table.from_pylist([PlannedShard(0, tasks).as_row()])
    return decode_shard(plan, timeout_s=60, nvdec=nvdec)


def test_videos_are_given_to_the_gpu_and_pictures_are_not(real_clips: Rows) -> None:
    with pytest.raises(NoDevice, match="needs an NVIDIA GPU"):
        decoded(real_clips[0], nvdec=True)
    assert decoded(real_clips[3], nvdec=True).to_pylist()[0]["decoded"] == [0]


def test_what_another_run_has_written_is_not_replaced(tmp_path: Path, real_clips: Rows) -> None:
    encode = ShardEncoder(settings_for("a").encode, str(tmp_path))
    encode(decoded(real_clips[0]))
    there = Path(shard_uri(str(tmp_path), 0)).read_bytes()
    with pytest.raises(RuntimeError, match=r"shard-000000\.parquet has been written by another run"):
        encode(decoded(real_clips[1]))
    assert encode(decoded(real_clips[0]))["samples"].to_pylist() == [1]
    assert Path(shard_uri(str(tmp_path), 0)).read_bytes() == there


def test_memory_is_used_again_once_nobody_has_the_shard(real_clips: Rows) -> None:
    def where(shard: pa.Table) -> int:
        return int(pixels_of(shard).ctypes.data)

    first, second = decoded(real_clips[0]), decoded(real_clips[1])
    expected, place = second["pixels"].to_pylist(), where(first)
    assert where(second) != place
    assert first["pixels"].to_pylist() == decoded(real_clips[0])["pixels"].to_pylist() != expected
    kept = second["pixels"][0]
    del second
    assert decoded(real_clips[0])["pixels"].to_pylist() == first["pixels"].to_pylist()
    assert kept.as_py() == expected[0]
    del first, kept
    places = [where(decoded(real_clips[0])) for _ in range(3)]
    assert len(set(places)) == 1


@pytest.mark.usefixtures("in_process")
def test_a_table_of_no_usable_clip_gives_an_empty_index(
    tmp_path: Path, media: Any, clip_row: Any, put_clips: PutClips
) -> None:
    settings = settings_for(str(tmp_path / "run"), "feed.token_budget=64")
    put_clips(settings.run.folder, [clip_row(media.bikes)])
    summary = stage.run(settings)
    assert summary["samples"] == 0
    assert summary["codec_psnr_db"] is None
    assert summary["dropped_by_reason"] == {"too_many_tokens": 1}


@pytest.mark.usefixtures("ray_cluster")
def test_input_and_output_on_s3(s3: str, media: Any, clip_row: Any, put_clips: PutClips) -> None:
    source = storage.join(s3, "videos", "bikes.mp4")
    storage.put(source, Path(media.bikes).read_bytes())
    settings = settings_for(storage.join(s3, "run"))
    put_clips(settings.run.folder, [clip_row(source)])
    assert stage.run(settings)["samples"] == 1
    assert len(latents_of(latents_folder(settings))) == 1


@pytest.mark.parametrize(
    "change",
    [
        "encode.dct_channels=32",
        "encode.max_text_tokens=64",
        "encode.max_pixels=4096",
        "encode.frame_counts=[1, 9]",
        "encode.buckets=[[9, 96, 160]]",
        "model.patch=4",
        "clips.fps=12.0",
    ],
)
def test_the_fingerprint_changes_with_what_shapes_a_latent(change: str) -> None:
    assert fingerprint(settings_for("a")) != fingerprint(settings_for("a", change))


@pytest.mark.parametrize(
    "change",
    ["encode.shard_tokens=7", "encode.max_crop=0.5", "train.lr=1e-5", "feed.token_budget=999", "run.seed=3"],
)
def test_the_fingerprint_is_that_of_the_latents_alone(change: str) -> None:
    assert fingerprint(settings_for("a")) == fingerprint(settings_for("b", change))


def test_the_fingerprint_of_fixed_buckets_is_that_of_the_table_alone() -> None:
    def of(*changes: str) -> str:
        return fingerprint(settings_for("a", *changes))

    table = "encode.buckets=[[9, 96, 160], [1, 96, 96]]"
    assert of(table) == of("encode.buckets=[[1, 96, 96], [9, 96, 160]]", "encode.max_pixels=4096")
    assert of(table) != of("encode.buckets=[[1, 96, 96]]")
    assert of(table) != of(table, "encode.max_crop=0.5")
