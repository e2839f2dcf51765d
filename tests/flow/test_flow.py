"""The whole flow with input and output in a bucket, from good files and bad ones; and again."""

import io
import os
import subprocess
import sys
from collections import Counter
from html import escape
from pathlib import Path

import av
import numpy as np
import pytest
import ray
from PIL import Image

from flow import sources
from flow.finished import REPO, REQUESTS, STEPS, WRONG, Flow, written
from media.made import corner_names, corners_frame, corners_video
from scraping import scrape
from vitascope import cli, config, storage
from vitascope.encode.codecs import make_codec
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.shards import read_samples
from vitascope.model.formats.load import load_model

NEWEST = f"train/checkpoints/step-{STEPS:08d}"
STAGES = ("clips", "encode", "train", "generate", "evaluate")
SIZES = {"1x80x112", "9x80x112", "9x96x64", "9x112x80", "17x80x112"}
FIELDS = {
    *("videos_in", "clips", "samples", "dropped_by_reason", "sizes", "codec_psnr_db", "useful_token_share"),
    *("cost_spread_p99", "ranks", "zero_stage", "steps", "train_loss_first", "train_loss_last"),
    *("val_loss_first", "val_loss_last", "tokens_per_s", "data_wait_share", "requests", "outputs"),
    *("outputs_by_mode", "requests_failed_by_reason", "seconds_by_stage"),
}
"""What the summary is promised to hold."""


def test_everything_is_in_the_bucket_and_nothing_beside_it(flow: Flow) -> None:
    latents = latents_folder(flow.settings).removeprefix(flow.path() + "/")
    expected = [
        *(
            "settings.resolved.toml",
            "summary.json",
            "report.html",
            "videos/videos.parquet",
            "clips/clips.parquet",
        ),
        *(f"{latents}/{name}" for name in ("index.parquet", "encode.json", "shard-000000.parquet")),
        *(f"{NEWEST}/state-0000{rank}-of-00002.safetensors" for rank in (0, 1)),
        *("model/model.json", "model/model.safetensors", "evaluate/losses.json"),
        *("outputs/batch/manifest.parquet", f"{NEWEST}/state.json", "train/metrics/00000000.jsonl"),
        *(f"summaries/{stage}.json" for stage in STAGES),
    ]
    assert set(expected) <= flow.files.keys()
    checkpoints = {name.split("/")[2] for name in flow.files if "/step-" in name}
    assert checkpoints == {NEWEST.rpartition("/")[2]}  # of two, one was to be kept
    assert flow.beside == []


def test_each_bad_file_is_in_the_ledger_with_its_reason(flow: Flow) -> None:
    videos = storage.rows(flow.path("videos"))
    assert {row["name"]: row["reason"] for row in videos if row["reason"]} == sources.BAD
    assert {row["name"] for row in videos} == sources.BAD.keys() | sources.CLIPS.keys()
    assert all(row["detail"] for row in videos if row["reason"])
    drops = storage.rows(storage.join(latents_folder(flow.settings), "drops.parquet"))
    encode = {row["clip_id"]: row["reason"] for row in drops}
    found: dict[str, list] = {}
    for row in storage.rows(flow.path("clips")):
        reason = row["reason"] or encode.get(row["clip_id"])
        found.setdefault(row["name"], []).append((row["n_frames"], reason))
    assert found == sources.CLIPS


def test_captions_come_from_sidecars_and_from_the_table(flow: Flow) -> None:
    assert {row["name"]: row["caption"] for row in flow.samples} == {
        "bunny.mp4": "a rabbit on a meadow",
        "tower.mp4": "a tower of the city",
        "turned.mp4": "four <coloured> quarters",
        "phone.mp4": "a man talks in a car",
        "dahlia.jpg": "a dahlia in bloom",
        "cut_late.mp4": "grey noise",
    }


def test_the_rotated_video_is_upright_down_to_its_latents(flow: Flow) -> None:
    (clip,) = [row for row in storage.rows(flow.path("clips")) if row["name"] == "turned.mp4"]
    assert (clip["width"], clip["height"]) == (64, 96)
    (sample,) = [row for row in flow.samples if row["name"] == "turned.mp4"]
    assert (sample["width"], sample["height"]) == (64, 96)
    (stored,) = read_samples(latents_folder(flow.settings), [(sample["shard"], sample["row"])])
    groups = make_codec(flow.settings.encode).decode(stored.latent.float())
    found = {corner_names(frame.numpy()) for group in groups for frame in group}
    assert found == {corner_names(np.rot90(corners_frame(96, 64)))}


def test_the_summary_has_every_figure_and_adds_up(flow: Flow) -> None:
    summary = flow.summary
    assert summary.keys() >= FIELDS
    assert all(summary[name] is not None for name in FIELDS)
    clips = [clip for cut in sources.CLIPS.values() for clip in cut]
    dropped = Counter([*sources.BAD.values(), *(reason for _, reason in clips if reason)])
    assert summary["dropped_by_reason"] == dropped
    assert summary["videos_in"] == len(sources.BAD) + len(sources.CLIPS)
    assert summary["clips"] == len(clips)
    assert summary["samples"] + dropped.total() == len(sources.BAD) + len(clips)
    assert summary["samples"] == len(flow.samples)
    assert set(summary["sizes"]) == SIZES
    assert summary["requests"] == summary["outputs"] + sum(summary["requests_failed_by_reason"].values())
    assert (summary["ranks"], summary["zero_stage"], summary["steps"]) == (2, 3, STEPS)
    assert tuple(summary["seconds_by_stage"]) == STAGES


def test_the_model_is_trained_and_knows_its_latents(flow: Flow) -> None:
    _, card = load_model(flow.path("model"))
    assert card.step == STEPS
    assert card.fingerprint == latents_folder(flow.settings).rpartition("/")[2]


def test_outputs_are_exactly_as_asked(flow: Flow) -> None:
    manifest = flow.manifest
    for name, asked in REQUESTS.items():
        row, fps = manifest[name], asked.get("fps", 8)
        size = (max(1, round(asked["seconds"] * fps)), asked["height"], asked["width"])
        assert (row["status"], row["n_frames"], row["height"], row["width"]) == ("ok", *size), row["detail"]
        assert row["uri"].startswith(flow.path("outputs", "batch"))
        assert probed(row["uri"]) == (*size, None if size[0] == 1 else fps)
        sidecar = storage.read_json(row["uri"].rpartition(".")[0] + ".json")
        assert sidecar["prompt"] == f"a {name}"


def probed(uri: str) -> tuple[int, int, int, float | None]:
    """Frames, height, width and fps (None for a picture) of an output, counted in the file itself."""
    content = io.BytesIO(storage.read_bytes(uri))
    if uri.endswith(".png"):
        picture = Image.open(content)
        return 1, picture.height, picture.width, None
    with av.open(content, "r") as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return len(frames), *frames[0].shape[:2], float(stream.average_rate or 0)


def test_wrong_requests_are_rows_that_say_why(flow: Flow) -> None:
    manifest, summary = flow.manifest, flow.summary
    assert manifest.keys() == REQUESTS.keys() | WRONG.keys()
    refused = {name: row["reason"] for name, row in manifest.items() if row["status"] == "dropped"}
    assert refused == {name: reason for name, (_, reason) in WRONG.items()}
    assert all(manifest[name]["detail"] and not manifest[name]["uri"] for name in WRONG)
    assert summary["requests_failed_by_reason"] == Counter(refused.values())
    assert summary["outputs"] == len(REQUESTS)


def test_the_report_shows_them_all(flow: Flow) -> None:
    report = storage.read_bytes(flow.path("report.html")).decode()
    assert all(escape(f"a {name}") in report for name in REQUESTS)
    assert all(name in report for name in (*sources.BAD, *sources.CLIPS))
    assert report.count("data:video/mp4") == len(REQUESTS) - 1  # one is a picture


def test_what_became_of_every_item_is_counted_in_the_metrics(flow: Flow) -> None:
    clips = Counter(reason or "ok" for cut in sources.CLIPS.values() for _, reason in cut)
    modes = Counter(asked.get("mode", "text_to_video") for asked in REQUESTS.values() if asked["seconds"])
    expected = {("items_total", "ok", "scan"): len(sources.CLIPS)}
    expected |= {("items_total", reason, "scan"): n for reason, n in Counter(sources.BAD.values()).items()}
    expected |= {("items_total", "ok", "cut"): clips["ok"] + clips["no_bucket"]}
    expected |= {("items_total", "ok", "encode"): flow.summary["samples"]}
    expected |= {("requests_total", mode, "ok"): n for mode, n in modes.items()}
    found = scrape(flow.settings.run.folder, expected)
    assert expected.items() <= found.items(), found


def test_run_again_nothing_is_done_twice(flow: Flow, capsys: pytest.CaptureFixture) -> None:
    before = flow.samples
    assert cli.main(["demo", storage.join(flow.path().rpartition("/")[0], "settings.toml")]) == 0
    assert flow.samples == before
    kept = ("latents/", "train/", "model/", "outputs/")
    rewritten = {"index.parquet", "drops.parquet", "encode.json", "manifest.parquet"}  # to the same content
    now = written(flow.settings)
    assert now.keys() == flow.files.keys()
    changed = {name for name in now if name.startswith(kept) and now[name] != flow.files[name]}
    assert {name.rpartition("/")[2] for name in changed} <= rewritten
    assert storage.read_json(flow.path("summaries", "generate.json"))["skipped_done"] == len(REQUESTS)
    assert "starting the workers" not in capsys.readouterr().out


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A working directory with settings, and a good and a bad file of input."""
    (tmp_path / "in").mkdir()
    corners_video(tmp_path / "in" / "a.mp4", size=(96, 64), seconds=2)
    (tmp_path / "in" / "a.txt").write_text("four coloured quarters")
    (tmp_path / "in" / "b.mp4").write_text("no video")
    (tmp_path / "settings.toml").write_text('[clips]\ninput = "in"\nfps = 5\n')
    return tmp_path


def ran(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """What a command of this environment did in a folder."""
    return subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


JOB, COMMAND = ("python", str(REPO / "jobs" / "clips.py")), ("vitascope", "clips")


def test_a_submitted_job_is_the_same_as_the_command(ray_cluster: None, here: Path) -> None:  # noqa: ARG001
    address = ray.get_runtime_context().gcs_address
    tables, said = [], []
    for name, command in (("job", JOB), ("command", COMMAND)):
        where = ("--set", f"run.folder={name}", "--set", "clips.durations_s=[1]")
        done = ran(here, *command, "settings.toml", *where, RAY_ADDRESS=address)
        assert (done.returncode, done.stderr) == (0, "")
        said.append([line.split(" in ")[0] for line in done.stdout.splitlines()])
        tables.append([storage.rows(str(here / name / table)) for table in ("videos", "clips")])
        assert config.load(str(here / name / config.RESOLVED)).clips.durations_s == (1.0,)
    assert tables[0] == tables[1]
    assert [clip["n_frames"] for clip in tables[0][1]] == [6, 6]
    assert said[0] == said[1]


@pytest.mark.parametrize("command", [JOB, COMMAND], ids=["job", "command"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["settings.toml", "--set", "clips.fsp=8"], "unknown key 'fsp'; did you mean 'fps'?"),
        (["none.toml"], "no settings file at none.toml"),
    ],
)
def test_a_mistake_in_the_settings_is_one_message_and_status_2(
    here: Path, command: tuple[str, str], arguments: list[str], message: str
) -> None:
    done = ran(here, *command, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("vitascope clips: ")
    assert line.endswith(message)
    assert sorted(os.listdir(here)) == ["in", "settings.toml"]
