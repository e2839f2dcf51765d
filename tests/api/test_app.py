"""The service on Ray, as OpenAI's client sees it: the real app, two replicas that answer, one runner."""

import base64
import io
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import httpx2 as httpx
import numpy as np
import openai
import psutil
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from api.conftest import Served, finished
from api.test_batches import begun, ended, lines, results
from api.test_videos import picture
from hosts.namespaces import wait_until


def frames(content: bytes) -> list[tuple[int, int]]:
    """The size of each frame of a video."""
    with av.open(io.BytesIO(content)) as container:
        return [(frame.width, frame.height) for frame in container.decode(video=0)]


def test_videos_from_their_request_to_their_end(served: Served) -> None:
    client = served.client("alice")
    first = client.videos.create(prompt="a cat", size="64x48", seconds="1", extra_body={"seed": 7, "fps": 8})
    done = finished(client, first.id)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert frames(client.videos.download_content(first.id).read()) == [(64, 48)] * 8
    from_picture = client.videos.create(
        prompt="a dog", input_reference=("dog.png", picture()), seconds="1.25"
    )
    assert finished(client, from_picture.id).status == "completed"
    remixed = client.videos.remix(first.id, prompt="a dog", extra_body={"seed": 8})
    source = {"video": openai.omit, "extra_body": {"video": {"id": first.id}}}
    longer = client.videos.extend(prompt="a cat", seconds="1", **source)
    assert [finished(client, one.id).status for one in (remixed, longer)] == ["completed"] * 2
    assert frames(client.videos.download_content(longer.id).read()) == [(64, 48)] * 16
    assert [video.id for video in client.videos.list(limit=2)] == [
        longer.id,
        remixed.id,
        from_picture.id,
        first.id,
    ]
    assert client.videos.delete(first.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(first.id)
    assert list(Path(served.objects.root).rglob(f"*{first.id}*")) == []


def test_pictures_and_a_batch(served: Served) -> None:
    client = served.client("bob")
    (made,) = client.images.generate(prompt="a cat", size="48x64").data
    assert Image.open(io.BytesIO(base64.b64decode(made.b64_json))).size == (48, 64)
    done = ended(client, begun(client, lines(*({"prompt": f"cat {i}", "seconds": 0.5} for i in range(5)))).id)
    assert (done.status, done.request_counts.completed) == ("completed", 5)
    assert len(results(client, done.output_file_id)) == 5


def test_what_is_measured(served: Served) -> None:
    client = served.client("carol")
    finished(client, client.videos.create(prompt="a cat").id)
    headers = {"Authorization": f"Bearer {client.api_key}"}

    def outcomes() -> set[str]:
        text = httpx.get(f"{served.url}/metrics", headers=headers, timeout=30).text
        families = [f for f in text_string_to_metric_families(text) if f.name == "ray_vitascope_requests"]
        return {sample.labels["outcome"] for family in families for sample in family.samples}

    wait_until(lambda: bool(outcomes()), 60, "requests in the metrics")
    assert outcomes() == {"ok"}


def test_200_clients_at_once(served: Served) -> None:
    client = served.client("many").with_options(max_retries=0)

    quick = {"steps": 1, "guidance": 1}

    def one(i: int) -> str:
        made = client.videos.create(prompt=f"cat {i}", size="32x32", seconds="0.25", extra_body=quick)
        assert client.videos.retrieve(made.id).id == made.id
        assert len(client.videos.list(limit=3).data) <= 3
        return made.id

    with ThreadPoolExecutor(200) as clients:
        ids = list(clients.map(one, range(200)))
    assert {finished(client, of, 300).status for of in ids} == {"completed"}
    assert [video.id for video in client.videos.list(limit=100)] == sorted(ids, reverse=True)


def processes(*deployments: str) -> list[psutil.Process]:
    """The replicas of these deployments; all of Ray's processes are this one's."""
    names = tuple(f"ray::ServeReplica:api:{name}" for name in deployments)
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(names):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_killed_replicas_lose_nothing(served: Served) -> None:
    client = served.client("dave").with_options(max_retries=8)
    ids = [client.videos.create(prompt=f"cat {i}", extra_body={"steps": 40}).id for i in range(6)]
    file = client.files.create(file=("a.png", picture()), purpose="vision")
    batch = begun(client, lines(*({"prompt": f"cat {i}", "steps": 10} for i in range(6))))
    wait_until(lambda: client.videos.retrieve(ids[0]).status == "in_progress", 60, "the first video")
    killed = processes("RunnerReplica", "Api")
    assert len(killed) == 3
    for process in killed:
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: len(processes("RunnerReplica", "Api")) == 3, 120, "other replicas")
    assert client.files.content(file.id).read() == picture()
    assert {finished(client, of, 300).status for of in ids} == {"completed"}
    done = ended(client, batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 6)
    wait_until(lambda: served.objects.all_pending() == [], 60, "nothing pending")
    made = {path.name for path in Path(served.objects.folder("dave")).rglob("*.mp4")}
    assert len(made) == 12


@pytest.mark.nightly
def test_memory_stays_flat_over_5000_requests(served: Served) -> None:
    """Of every process of the service, once it is warm: less than 1 KiB more for each request."""
    client = served.client("erin")
    resident: list[list[int]] = []
    for i in range(500):
        made = client.videos.create(prompt=f"cat {i}", size="32x32", seconds="0.25", extra_body={"steps": 1})
        file = client.files.create(file=("a.png", picture()), purpose="vision")
        for _ in range(3):
            client.videos.retrieve(made.id)
        client.videos.list(limit=5)
        client.files.content(file.id)
        client.files.delete(file.id)
        client.models.list()
        client.videos.delete(made.id)
        if i >= 100 and i % 20 == 0:
            resident.append([process.memory_info().rss for process in processes("RunnerReplica", "Api")])
    requests = 10 * 20 * np.arange(len(resident))
    slopes = np.polyfit(requests, np.array(resident), 1)[0]
    print("bytes of memory per request:", slopes)
    assert (slopes < 1024).all(), slopes
