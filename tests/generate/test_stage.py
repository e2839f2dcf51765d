"""The job on a real cluster: all modes mixed, wrong requests, a killed driver, a killed replica."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import ray
from PIL import Image
from ray import serve

from vitascope import config, storage
from vitascope.cli import main
from vitascope.config import RunSettings, Settings
from vitascope.errors import Failed, Mistake
from vitascope.generate import stage
from vitascope.generate.app import serving
from vitascope.generate.app.build import deployed
from vitascope.generate.batch.batch import Batch
from vitascope.generate.settings import GenerateSettings
from vitascope.generate.starting import starting
from vitascope.generate.tracing import tracing
from vitascope.media import mp4

SIZES = [(64, 48), (48, 64), (80, 50)]
MODES: list[dict[str, Any]] = [
    {},
    {"seconds": 0},
    {"mode": "image_to_video", "image": "a.png"},
    {"mode": "extend_forward", "video": "a.mp4", "fps": 12, "seconds": 1},
    {"mode": "extend_backward", "video": "a.mp4", "seconds": 14 / 8},
    {"mode": "join", "video": "a.mp4", "video_after": "a.mp4", "negative_prompt": "dark"},
]
WRONG = {
    "unknown field": ({"promt": "a cat"}, "invalid_request"),
    "too large": ({"width": 16384, "height": 96}, "invalid_request"),
    "no image": ({"mode": "image_to_video"}, "media_missing"),
    "image not there": ({"mode": "image_to_video", "image": "none.png"}, "media_missing"),
    "empty prompt": ({"prompt": ""}, "invalid_request"),
    "not a video": ({"mode": "extend_forward", "video": "text.mp4"}, "unreadable"),
}
SMALL = {"prompt": "a cat", "seconds": 9 / 8, "steps": 12}
DRIVER = "from vitascope.config import Settings; from vitascope.generate import stage; import sys;"
DRIVER += "stage.run(Settings.model_validate_json(sys.argv[1]))"


def good_requests() -> list[dict[str, Any]]:
    """Every mode at every size."""
    pairs = [(i, size, mode) for i, size in enumerate(SIZES) for mode in MODES]
    return [
        SMALL | {"width": w, "height": h} | mode | {"custom_id": f"{i} {n}/ü"}
        for n, (i, (w, h), mode) in enumerate(pairs)
    ]


def write_inputs(folder: str, requests: list[dict[str, Any]], model: str) -> Settings:
    """A request file with its media next to it, and the settings of the stage."""
    levels = np.arange(24, dtype=np.uint8)[:, None, None, None] * 5 + 40
    files = {
        "a.mp4": mp4.mp4_bytes(np.broadcast_to(levels, (24, 96, 128, 3)), 8),
        "a.png": mp4.png_bytes(np.full((96, 128, 3), 90, np.uint8)),
        "text.mp4": b"no video",
        "requests.jsonl": storage.json_lines(requests),
    }
    for name, content in files.items():
        storage.put(storage.join(folder, name), content)
    generate = {"requests": storage.join(folder, "requests.jsonl"), "model": model}
    generate |= {"max_in_flight": 3, "max_tokens": 400, "token_budget": 400}
    return Settings.model_validate({"run": {"folder": storage.join(folder, "run")}, "generate": generate})


def all_at_once(settings: Settings) -> Settings:
    """The same with all requests in each pass: those of few steps are soon done, though sent last."""
    generate = settings.generate.model_copy(update={"max_in_flight": 18, "token_budget": 10_000})
    return settings.model_copy(update={"generate": generate})


def finished(settings: Settings) -> dict[str, str]:
    """The existing sidecars, with what changes when one is rewritten."""
    folder = settings.path("outputs", "batch")
    sidecars = (
        [f for f in storage.list_files(folder) if f.endswith(".json")] if storage.exists(folder) else []
    )
    return {f: storage.filesystem(f)[0].ukey(f) for f in sidecars}


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


@dataclass
class Scenario:
    """A batch whose driver was killed half-way, run again."""

    settings: Settings
    requests: list[dict[str, Any]]
    before: dict[str, str]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def scenario(ray_cluster: None, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Scenario:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("batch")
    wrong = [SMALL | {"custom_id": k, "width": 64, "height": 48} | fields for k, (fields, _) in WRONG.items()]
    good = good_requests()
    requests = [*good[:3], *wrong, *good[3:], good[0] | {"prompt": "the same custom_id again"}]
    settings = write_inputs(str(folder), requests, str(model_folder))
    before = _run_and_kill(settings)
    summary = stage.run(settings)
    rows = storage.rows(settings.path("outputs", "batch", "manifest.parquet"))
    return Scenario(settings, requests, before, summary, rows)


def _run_and_kill(settings: Settings) -> dict[str, str]:
    """Runs the job in a process of its own on the same cluster, and kills it when a few outputs exist."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER, settings.model_dump_json()]
    driver = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": address})
    wait_for(lambda: len(finished(settings)) >= 5 or driver.poll() is not None)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL, "the job ended before it was killed"
    return finished(settings)


def test_every_request_is_accounted_for(scenario: Scenario) -> None:
    assert [row["line"] for row in scenario.rows] == list(range(1, len(scenario.requests) + 1))
    assert [row["custom_id"] for row in scenario.rows] == [r["custom_id"] for r in scenario.requests]
    summary = scenario.summary
    assert summary["requests"] == len(scenario.requests) == 25
    assert summary["outputs"] == 18
    modes = ["extend_backward", "extend_forward", "image", "image_to_video", "join", "text_to_video"]
    assert summary["outputs_by_mode"] == dict.fromkeys(modes, 3)
    assert summary["requests_failed_by_reason"] == {"invalid_request": 4, "media_missing": 2, "unreadable": 1}
    assert storage.read_json(scenario.settings.path("summaries", "generate.json")) == summary
    assert summary["succeeded"]  # those that failed could not have been generated
    assert summary["outputs_changed"]["size_cropped"] >= 6  # 80x50 is no multiple of 16


def test_wrong_requests_became_rows_that_say_why(scenario: Scenario) -> None:
    by_id = {row["custom_id"]: row for row in scenario.rows if row["custom_id"] in WRONG}
    assert {k: row["reason"] for k, row in by_id.items()} == {k: reason for k, (_, reason) in WRONG.items()}
    assert all(row["status"] == "dropped" and row["detail"] and row["uri"] is None for row in by_id.values())
    assert "'0 0/ü' is on an earlier line" in scenario.rows[-1]["detail"]


def test_every_output_is_exactly_as_asked(scenario: Scenario) -> None:
    outputs = [
        (r, row) for r, row in zip(scenario.requests, scenario.rows, strict=True) if row["status"] == "ok"
    ]
    assert len(outputs) == 18
    for request, row in outputs:
        size = (row["n_frames"], row["height"], row["width"])
        frames = max(1, round(request["seconds"] * request.get("fps", 8)))
        assert size == (frames, request["height"], request["width"])
        if frames == 1:
            assert np.asarray(Image.open(row["uri"])).shape == (*size[1:], 3)
            continue
        with av.open(row["uri"]) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.height, stream.width) == ("h264", *size[1:])
            assert float(stream.average_rate) == request.get("fps", 8)
            assert len(list(container.decode(stream))) == frames


def test_given_frames_are_seen_in_the_output(scenario: Scenario) -> None:
    row = next(r for r in scenario.rows if r["mode"] == "extend_forward" and r["uri"])
    with av.open(row["uri"]) as container:
        frames = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    # The last frame of a.mp4 is the fifth here; twelve of the codec's coefficients keep flat colours.
    assert frames[4] == pytest.approx(40 + 5 * 23, abs=6)


def test_the_sidecar_says_how_it_was_made(scenario: Scenario) -> None:
    row = next(r for r in scenario.rows if r["mode"] == "join")
    sidecar = storage.read_json(row["uri"].rpartition(".")[0] + ".json")
    assert (sidecar["prompt"], sidecar["negative_prompt"], sidecar["steps"]) == ("a cat", "dark", 12)
    assert (sidecar["model"]["step"], sidecar["model"]["latents"]) == (7, "tiny")
    assert sidecar["given"].pop("psnr_db") > 20
    n = sidecar["n_frames"]
    assert sidecar["given"] == {"first": 1, "last": 4, "spans": [[0, 1], [n - 4, n]]}
    first, last = sidecar["conditioning"]
    names = ("end", "media", "start_s", "n_frames")
    assert [first[name] for name in names] == ["first", "video", 23 / 8, 1]
    assert [last[name] for name in names] == ["last", "video_after", 0, 4]
    folder = row["uri"].rpartition("/")[0]
    for end, level in ((first, 40 + 5 * 23), (last, 40)):
        picture = Image.open(io.BytesIO(storage.read_bytes(storage.join(folder, end["picture"]))))
        assert np.asarray(picture).mean() == pytest.approx(level, abs=3)
    stages = {"text", "conditioning", "denoise", "decode", "encode", "sign", "upload"}
    assert set(sidecar["seconds"]) == set(sidecar["waited"]) == stages
    assert all(seconds >= 0 for kind in ("seconds", "waited") for seconds in sidecar[kind].values())
    row = next(r for r in scenario.rows if r["height"] == 50 and r["uri"] and r["n_frames"] > 1)
    sidecar = storage.read_json(row["uri"].rpartition(".")[0] + ".json")
    assert sidecar["changes"]["size_cropped"].endswith("x64x80 (frames x height x width), cropped to 9x50x80")
    assert row["changes"] == ["size_cropped"]


def test_after_a_kill_each_has_one_output_and_finished_ones_are_untouched(scenario: Scenario) -> None:
    assert 5 <= len(scenario.before) < 18
    assert scenario.summary["skipped_done"] >= len(scenario.before)
    now = finished(scenario.settings)
    assert len(now) == 18
    assert scenario.before.items() <= now.items()
    folder = Path(scenario.settings.path("outputs", "batch"))
    media = [p for p in folder.iterdir() if p.suffix in (".mp4", ".png")]
    assert sorted(str(p.with_suffix(".json")) for p in media) == sorted(now)


def test_run_again_nothing_is_done_twice(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, before = scenario.settings, finished(scenario.settings)
    monkeypatch.setattr(stage, "connect", lambda _: pytest.fail("Ray was started"))
    # If every request that may succeed is finished, not even Ray is needed; lines may move.
    done = [
        r for r in scenario.requests if not r.get("image", r.get("video", "")).startswith(("none", "text"))
    ]
    storage.put(str(settings.generate.requests), storage.json_lines(reversed(done[:-1])))
    summary = stage.run(settings)
    assert finished(settings) == before
    assert summary["skipped_done"] == summary["outputs"] == 18
    rows = storage.rows(settings.path("outputs", "batch", "manifest.parquet"))
    assert {r["uri"] for r in rows} == {r["uri"] for r in scenario.rows}


def test_a_sidecar_that_was_spoilt_is_one_row(scenario: Scenario, tmp_path: Path) -> None:
    """In a copy of the batch: the others' rows are as before, and nothing is generated."""
    shutil.copytree(scenario.settings.path("outputs", "batch"), tmp_path / "outputs" / "batch")
    spoilt = sorted((tmp_path / "outputs" / "batch").glob("*.json"))
    for path, content in zip(spoilt, ("", "[]", '{"uri": 1}', '{"seconds": {"a": "b"}}'), strict=False):
        path.write_text(content)
    settings = scenario.settings.model_copy(update={"run": RunSettings(folder=str(tmp_path))})
    done = [
        r for r in scenario.requests if not r.get("image", r.get("video", "")).startswith(("none", "text"))
    ]
    storage.put(str(settings.generate.requests), storage.json_lines(done[:-1]))
    summary = stage.run(settings)
    assert summary["requests_failed_by_reason"]["unreadable"] == 4
    assert summary["outputs"] == 14
    rows = storage.rows(settings.path("outputs", "batch", "manifest.parquet"))
    assert sum("delete it to generate this again" in (row["detail"] or "") for row in rows) == 4


@pytest.mark.parametrize("content", [b"", b"\n\n", b'\xff\n{"mode": "join", "custom_id": "a"}\n'])
def test_without_a_request_that_may_succeed_no_app_is_started(
    model_folder: Path, tmp_path: Path, content: bytes
) -> None:
    settings = write_inputs(str(tmp_path), [], str(model_folder))
    storage.put(str(settings.generate.requests), content)
    summary = stage.run(settings)
    rows = storage.rows(settings.path("outputs", "batch", "manifest.parquet"))
    assert summary["requests"] == len(rows) == len(content.strip().splitlines())
    assert summary["succeeded"] == (not rows)
    assert [(r["line"], r["custom_id"], r["mode"]) for r in rows] == [(1, None, None), (2, "a", "join")][
        : len(rows)
    ]


def test_a_damaged_model_is_named_before_anything_is_started(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    settings = write_inputs(str(tmp_path), good_requests(), str(tmp_path / "model"))
    started = time.monotonic()
    with pytest.raises(Mistake, match="bytes, and its header describes"):
        stage.run(settings)
    assert time.monotonic() - started < 5


def test_what_is_missing_is_named(model_folder: Path, tmp_path: Path) -> None:
    settings = write_inputs(str(tmp_path), [], str(model_folder))
    for key, value in (("requests", None), ("requests", "/none.jsonl"), ("model", "/none")):
        generate = settings.generate.model_copy(update={key: value})
        with pytest.raises((ValueError, FileNotFoundError), match=f"generate.{key}"):
            stage.run(settings.model_copy(update={"generate": generate}))


def test_on_s3_and_a_killed_replica_costs_no_request(ray_cluster: None, model_folder: Path, s3: str) -> None:  # noqa: ARG001
    # The first is soon done, and the others are not when the replica is killed then.
    requests = [r | {"steps": 150 if i else 2} for i, r in enumerate(good_requests()[:6])]
    for file in model_folder.iterdir():
        storage.put(storage.join(s3, "model", file.name), file.read_bytes())
    settings = all_at_once(write_inputs(s3, requests, storage.join(s3, "model")))
    killed: list[str] = []

    def kill() -> None:
        wait_for(lambda: len(finished(settings)) >= 1)
        actors = ray.util.list_named_actors(all_namespaces=True)
        killed.extend(a["name"] for a in actors if "#Denoise#" in a["name"])
        ray.kill(ray.get_actor(killed[0], namespace="serve"))

    killer = threading.Thread(target=kill)
    killer.start()
    summary = stage.run(settings)
    killer.join()
    assert len(killed) == 1
    rows = storage.rows(settings.path("outputs", "batch", "manifest.parquet"))
    assert [row["detail"] for row in rows] == [None] * 6
    assert summary["requests_failed_by_reason"] == {}
    for row in storage.rows(settings.path("outputs", "batch", "manifest.parquet")):
        assert row["uri"].startswith(s3)
        assert storage.size_bytes(row["uri"]) > 100


def test_a_batch_that_is_cancelled_ends_soon_and_says_so(
    ray_cluster: None,  # noqa: ARG001
    model_folder: Path,
    tmp_path: Path,
) -> None:
    requests = [r | {"steps": 1000 if i > 1 else 2} for i, r in enumerate(good_requests())]
    settings = all_at_once(write_inputs(str(tmp_path), requests, str(model_folder)))
    where = ["--set", f"run.folder={settings.run.folder}"]
    cancelled_at: list[float] = []

    def cancel() -> None:
        wait_for(lambda: len(finished(settings)) >= 2)
        assert main(["batch", "cancel", *where]) == 0
        cancelled_at.append(time.monotonic())

    canceller = threading.Thread(target=cancel)
    canceller.start()
    summary = stage.run(settings)
    canceller.join()
    assert time.monotonic() - cancelled_at[0] < 120  # and not the minutes of 16 requests of 1000 steps
    assert summary["requests_failed_by_reason"] == {"cancelled": 16}
    assert (summary["outputs"], summary["succeeded"]) == (2, False)
    assert summary["denoising"]["all"]["clips"] == 2
    rows = storage.rows(settings.path("outputs", "batch", "manifest.parquet"))
    assert [row["reason"] for row in rows].count("cancelled") == 16
    assert [row["line"] for row in rows] == list(range(1, 19))
    assert len(finished(settings)) == 2


def test_an_app_left_with_other_settings_makes_room(ray_cluster: None) -> None:  # noqa: ARG001
    class Waits:
        def __call__(self) -> str:
            return "here"

    large, usual = (deployed(Waits, 1, Settings(), cpus=cpus).bind() for cpus in (6, 3))
    assert ray.cluster_resources()["CPU"] < 6 + 3
    serve.run(large, name="vitascope-x-left", route_prefix=None)
    off = tracing(GenerateSettings())
    with serving.serving(usual, "vitascope-x-", "vitascope-x-now", off) as handle:
        assert handle.remote().result(timeout_s=60) == "here"
        assert set(serve.status().applications) == {"vitascope-x-now"}


@pytest.mark.parametrize("how", ["raises", "dies"])
def test_why_a_replica_cannot_start_reaches_the_user(ray_cluster: None, how: str) -> None:  # noqa: ARG001
    class Failing:
        def __init__(self) -> None:
            if how == "dies":
                os._exit(9)
            with starting("the model"):
                raise MemoryError("no room for 80 GB\nof weights")

    bound = deployed(Failing, 1, Settings(), cpus=0.1).bind()
    name, off = f"vitascope-y-{how}", tracing(GenerateSettings())
    said = {
        "raises": "the model cannot start: MemoryError: no room for 80 GB of weights$",
        "dies": "the process of a replica died at its start",
    }
    with pytest.raises(Failed, match=said[how]) as failed, serving.serving(bound, "vitascope-y-", name, off):
        pass
    assert "\n" not in str(failed.value)
    wait_for(lambda: name not in serve.status().applications)


def test_why_a_replica_cannot_start_again_is_known(ray_cluster: None, tmp_path: Path) -> None:  # noqa: ARG001
    flag = tmp_path / "started"

    class StartsOnce:
        def __init__(self) -> None:
            with starting("the model"):
                if flag.exists():
                    raise OSError("its file is gone")
                flag.touch()

        def __call__(self) -> str:
            return "here"

    bound = deployed(StartsOnce, 1, Settings(), cpus=0.1).bind()
    name = "vitascope-z-once"
    with serving.serving(bound, "vitascope-z-", name, tracing(GenerateSettings())) as handle:
        assert handle.remote().result(timeout_s=60) == "here"
        assert serving.stuck(name) is None
        actors = ray.util.list_named_actors(all_namespaces=True)
        replica = next(a["name"] for a in actors if "#StartsOnce#" in a["name"])
        ray.kill(ray.get_actor(replica, namespace="serve"))
        handle.remote()  # one that waits for a replica
        wait_for(lambda: serving.stuck(name) == "the model cannot start: OSError: its file is gone")


def test_a_batch_that_is_interrupted_keeps_what_is_finished_and_leaves_no_app(
    ray_cluster: None,  # noqa: ARG001
    model_folder: Path,
    tmp_path: Path,
) -> None:
    requests = [r | {"steps": 300 if i > 2 else 2} for i, r in enumerate(good_requests())]
    settings = all_at_once(write_inputs(str(tmp_path), requests, str(model_folder)))
    storage.put(str(tmp_path / "settings.toml"), config.to_toml(settings).encode())
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "vitascope.cli", "generate", str(tmp_path / "settings.toml")]
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(finished(settings)) >= 2 or driver.poll() is not None)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert "Traceback" not in said
    before = finished(settings)
    assert 2 <= len(before) < 18
    name = stage.app_name(Batch.of(settings), settings)[1]
    wait_for(lambda: name not in serve.status().applications, 60)
    assert finished(settings) == before  # nor is anything left running in the background
    for sidecar in before:
        assert storage.size_bytes(storage.read_json(sidecar)["uri"]) > 100
