"""The service on Ray, as OpenAI's client sees it."""

import time
from pathlib import Path

import av
import openai
import pytest

from api.conftest import Served


def finished(client: openai.OpenAI, of: str, within_s: float = 120) -> openai.types.Video:
    """The video once it has ended."""
    deadline = time.monotonic() + within_s
    while (video := client.videos.retrieve(of)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline, video
        time.sleep(0.2)
    return video


def test_a_video_from_its_request_to_its_end(served: Served, tmp_path: Path) -> None:
    client = served.client("alice")
    made = client.videos.create(prompt="a cat", size="64x48", seconds="1", extra_body={"seed": 7, "fps": 8})
    assert (made.object, made.status, made.progress, made.size, made.seconds) == (
        "video",
        "queued",
        0,
        "64x48",
        "1",
    )
    done = finished(client, made.id)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert done.settings["seed"] == 7
    client.videos.download_content(made.id).write_to_file(tmp_path / "made.mp4")
    with av.open(tmp_path / "made.mp4") as container:
        frames = list(container.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(64, 48)] * 8
    assert [video.id for video in client.videos.list()] == [made.id]
    assert client.videos.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(made.id)
    left = Path(served.objects.root).rglob(f"*{made.id}*")
    assert list(left) == []
