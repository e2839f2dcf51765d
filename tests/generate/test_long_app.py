"""Long videos on a real cluster, and in a browser."""

import functools
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from vitascope import storage
from vitascope.config import Settings
from vitascope.generate import stage
from vitascope.media.mp4 import mp4_bytes, write_mp4

SMALL = {"prompt": "a cat", "width": 64, "height": 48, "steps": 2, "guidance": 1}


def test_a_batch_of_long_and_short_videos(ray_cluster: None, model_folder: Path, tmp_path: Path) -> None:  # noqa: ARG001
    (tmp_path / "in.mp4").write_bytes(mp4_bytes(np.full((40, 48, 64, 3), 200, np.uint8), 8))
    requests = [
        {"custom_id": "long", "seconds": 14, "chunk_frames": 33},
        {"custom_id": "on", "seconds": 14, "chunk_frames": 33, "mode": "extend_forward", "video": "in.mp4"},
        *({"custom_id": str(i), "seconds": 1} for i in range(3)),
        {"custom_id": "wide", "seconds": 14, "width": 320, "height": 240},  # as long as a pass takes
    ]
    requests_file = tmp_path / "requests.jsonl"
    requests_file.write_bytes(storage.json_lines(SMALL | request for request in requests))
    generate = {"requests": str(requests_file), "model": str(model_folder), "max_tokens": 4000}
    run = {"folder": str(tmp_path / "run")}
    settings = Settings.model_validate({"run": run, "generate": generate})
    summary = stage.run(settings)
    assert (summary["outputs"], summary["requests"]) == (6, 6)
    rows = {
        row["custom_id"]: row for row in storage.rows(settings.path("outputs", "batch", "manifest.parquet"))
    }
    for request in requests:
        row = rows[str(request["custom_id"])]
        assert row["n_frames"] == 8 * int(str(request["seconds"]))
        with av.open(row["uri"]) as container:
            frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        assert len(frames) == row["n_frames"]
        if request["custom_id"] == "on":
            assert abs(np.mean(frames[:13]) - 200) < 8
    made = storage.read_json(rows["wide"]["uri"].replace(".mp4", ".json"))
    assert made["chunk_frames"] == 1 + 4 * (4000 // 300 - 1)
    assert not any(Path(settings.path("outputs", "batch", ".running")).iterdir())


SEEK = """async at => {
    const v = document.getElementById('v');
    const until = name => new Promise((done, failed) => {
        v.addEventListener(name, done, {once: true});
        v.addEventListener('error', () => failed(new Error(v.error.message)), {once: true});
        setTimeout(() => failed(new Error(name + ' did not come')), 20000);
    });
    if (!v.src) {
        const loaded = until('loadedmetadata');
        v.src = URL.createObjectURL(await (await fetch('a.mp4')).blob());
        await loaded;
    }
    const sought = until('seeked');
    v.currentTime = at;
    await sought;
    const c = document.createElement('canvas');
    c.width = v.videoWidth; c.height = v.videoHeight;
    const g = c.getContext('2d');
    g.drawImage(v, 0, 0);
    return [v.duration, v.videoWidth, v.videoHeight, g.getImageData(32, 24, 1, 1).data[0]];
}"""
PLAY = """async () => {
    const v = document.getElementById('v');
    v.currentTime = 30;
    v.playbackRate = 4;
    await v.play();
    await new Promise(done => setTimeout(done, 2000));
    v.pause();
    return v.currentTime;
}"""


@pytest.mark.nightly
def test_a_minute_plays_in_a_browser_and_can_be_sought(tmp_path: Path) -> None:
    """The brightness of a frame tells its time."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "this test needs Chromium"
    write_mp4(tmp_path / "a.mp4", (np.full((48, 64, 3), 40 + i // 8, np.uint8) for i in range(1440)), 24)
    (tmp_path / "index.html").write_text("<video id=v muted></video>")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        for at_s in (0.1, 59.5, 10.1, 33.3):
            duration, width, height, level = page.evaluate(SEEK, at_s)
            assert (duration, width, height) == (60, 64, 48)
            assert abs(level - (40 + at_s * 24 / 8)) <= 4
        assert 31 < page.evaluate(PLAY) <= 60
        browser.close()
        server.shutdown()
