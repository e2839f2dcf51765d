"""Batches, files and pictures, as OpenAI's client sees them."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from PIL import Image

from api.conftest import Served
from api.test_videos import picture, refusal
from hosts.namespaces import wait_until


def lines(*bodies: Any, url: str = "/v1/videos") -> bytes:
    documents = (
        {"custom_id": f"line {i}", "method": "POST", "url": url, "body": body}
        for i, body in enumerate(bodies)
    )
    return "".join(json.dumps(document) + "\n" for document in documents).encode()


def begun(client: openai.OpenAI, content: bytes, endpoint: str = "/v1/videos") -> openai.types.Batch:
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")  # type: ignore[arg-type]


def ended(client: openai.OpenAI, of: str) -> openai.types.Batch:
    wait_until(
        lambda: client.batches.retrieve(of).status in ("completed", "failed", "cancelled"), 60, "the batch"
    )
    return client.batches.retrieve(of)


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id
    documents = map(json.loads, client.files.content(file_id).text.splitlines())
    return {document["custom_id"]: document for document in documents}


def test_a_batch_of_videos(local: Served) -> None:
    client = local.client("alice")
    bodies = [{"prompt": f"cat {i}", "seconds": "0.5", "seed": i} for i in range(40)]
    wrong = lines({"prompt": "fail"}, {"prompt": "cat", "size": "1"}).replace(b"line ", b"wrong ")
    twice = b'{"custom_id": "line 0", "method": "POST", "url": "/v1/videos", "body": {}}\n\n{"custom_id":\n'
    batch = begun(client, lines(*bodies) + wrong + twice)
    assert batch.status == "validating"
    done = ended(client, batch.id)
    counts = done.request_counts
    assert (done.status, counts.total, counts.completed, counts.failed) == ("completed", 44, 40, 4)
    made = results(client, done.output_file_id)
    assert list(made) == [f"line {i}" for i in range(40)]
    video = made["line 7"]["response"]["body"]
    assert (video["status"], video["settings"]["seed"], video["prompt"]) == ("completed", 7, "cat 7")
    assert client.videos.download_content(video["id"]).read()[4:8] == b"ftyp"
    errors = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
    assert [(e["custom_id"], e["response"]["body"]["error"]["code"]) for e in errors] == [
        ("wrong 0", "too_short"),
        ("wrong 1", "invalid_request"),
        ("line 0", "invalid_request"),
        (None, "invalid_request"),
    ]
    assert sorted(request.seed for request in local.app.sent if "cat" in request.prompt) == list(range(40))
    assert [one.id for one in client.batches.list()] == [batch.id]
    assert {file.purpose for file in client.files.list()} == {"batch", "batch_output"}
    assert refusal(client.batches.cancel, batch.id)[:2] == (409, "batch_ended")


def test_a_batch_of_pictures(local: Served) -> None:
    client = local.client("alice")
    content = lines(
        {"prompt": "a", "n": "2"}, {"prompt": "b", "response_format": "url"}, url="/v1/images/generations"
    )
    done = ended(client, begun(client, content, "/v1/images/generations").id)
    made = results(client, done.output_file_id)
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))).size
        for one in made["line 0"]["response"]["body"]["data"]
    ]
    assert sizes == [(64, 48)] * 2
    assert "signature" in made["line 1"]["response"]["body"]["data"][0]["url"]


def test_a_cancelled_batch_says_what_was_not_done(local: Served) -> None:
    client = local.client("alice")
    batch = begun(client, lines(*({"prompt": "cat" if i < 3 else "wait"} for i in range(60))))
    wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed == 3, 30, "three videos")
    assert client.batches.cancel(batch.id).status == "cancelling"
    done = ended(client, batch.id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("cancelled", 3, 57)
    assert len(results(client, done.output_file_id)) == 3
    codes = [one["response"]["body"]["error"]["code"] for one in results(client, done.error_file_id).values()]
    assert codes == ["batch_cancelled"] * 57
    assert len(local.app.cancelled) == len(local.app.sent) - 3 > 0
    assert local.objects.all_pending() == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"endpoint": "/v1/responses"}, (400, "invalid_request", "endpoint")),
        ({"completion_window": "1h"}, (400, "invalid_request", "completion_window")),
        ({"input_file_id": "file_../x"}, (404, "not_found", "file_id")),
        ({"metadata": {"a": "b" * 513}}, (400, "invalid_request", "metadata")),
        ({"extra_body": {"x": 1}}, (400, "unknown_parameter", "x")),
    ],
)
def test_wrong_batches(local: Served, change: dict[str, Any], expected: tuple) -> None:
    client = local.client("alice")
    file = client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    good = {"input_file_id": file.id, "endpoint": "/v1/videos", "completion_window": "24h"}
    assert refusal(client.batches.create, **good | change) == expected


def test_a_batch_without_requests_fails(local: Served) -> None:
    client = local.client("alice")
    done = ended(client, begun(client, b"\n\n").id)
    assert (done.status, done.errors.data[0].param) == ("failed", "input_file_id")


def test_files(local: Served) -> None:
    client, content = local.client("alice"), picture()
    made = client.files.create(file=("../../ä b.png", content), purpose="user_data")
    assert (made.filename, made.bytes, made.object, made.purpose) == (
        "ä b.png",
        len(content),
        "file",
        "user_data",
    )
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == content
    other = client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert [file.id for file in client.files.list()] == [other.id, made.id]
    assert [file.id for file in client.files.list(purpose="user_data", limit=1)] == [made.id]
    assert client.files.delete(made.id).deleted
    assert refusal(client.files.content, made.id) == (404, "not_found", "file_id")
    assert refusal(client.files.create, file=("a", b""), purpose="fine-tune") == (
        400,
        "invalid_request",
        "purpose",
    )
    left = [
        path.name for path in Path(local.objects.root).rglob("*") if made.id in str(path) and path.is_file()
    ]
    assert left == []


def test_a_refused_request_leaves_nothing(local: Served) -> None:
    client = local.client("alice", in_flight=2)
    assert refusal(client.images.generate, prompt="wait", n=3) == (429, "too_many_in_flight", None)
    upload = {"input_reference": ("a.png", picture()), "size": "1x1"}
    assert refusal(client.videos.create, prompt="a cat", **upload)[0] == 400
    assert list(client.files.list()) == []
    assert [path for path in Path(local.objects.root).rglob("*_*") if path.is_file()] == []


def test_pictures(local: Served) -> None:
    client = local.client("alice")
    answer = client.images.generate(
        prompt="a cat", model="vitascope", n=3, size="48x64", extra_body={"seed": 5}
    )
    assert [Image.open(io.BytesIO(base64.b64decode(one.b64_json))).size for one in answer.data] == [
        (48, 64)
    ] * 3
    assert sorted(request.seed for request in local.app.sent) == [5, 6, 7]
    (linked,) = client.images.generate(prompt="a dog", response_format="url").data
    assert httpx.get(linked.url).headers["content-type"] == "image/png"
    headers = {"Authorization": f"Bearer {client.api_key}"}
    listed = httpx.get(f"{local.url}/v1/images", headers=headers).json()["data"]
    assert len(listed) == 4
    assert httpx.delete(f"{local.url}/v1/images/{listed[0]['id']}", headers=headers).json()["deleted"]
    assert httpx.get(linked.url).status_code == 404
    assert list(client.videos.list()) == []
    edited = client.images.edit(image=("a.png", picture()), prompt="a hat", n=2, extra_body={"strength": 0.5})
    assert len(edited.data) == 2
    first, second = local.app.sent[-2:]
    assert (first.mode, first.strength, first.image) == ("image_to_image", 0.5, second.image)
    assert Path(first.image or "").read_bytes() == picture()
    client.images.edit(image=[("a.png", picture())], prompt="a hat")
    assert refusal(client.images.edit, image=2 * [("a.png", picture())], prompt="a")[2] == "image"
    headers["Content-Type"] = "application/json"
    answer = httpx.post(f"{local.url}/v1/images/edits", headers=headers, content=b'{"prompt": "a hat"}')
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    n_files = len(list(client.files.list()))
    wrong = {"image": ("a.png", picture()), "size": "1x1"}
    assert refusal(client.images.edit, prompt="a hat", **wrong)[0] == 400
    assert len(list(client.files.list())) == n_files
    assert refusal(client.images.generate, prompt="fail") == (400, "too_short", None)
    assert refusal(client.images.generate, prompt="a", n=2, extra_body={"seed": "5.5"})[2] == "seed"
    assert refusal(client.images.generate, prompt="a", n=11) == (400, "invalid_request", "n")
    assert refusal(client.images.generate, prompt="a", output_format="webp")[2] == "output_format"
    assert refusal(client.images.generate, prompt="a", quality="hd") == (400, "invalid_request", None)
