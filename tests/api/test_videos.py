"""Videos, as OpenAI's client sees them."""

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx  # the one that OpenAI's client has
import openai
import pytest
from PIL import Image

from api.conftest import Served, finished
from api.in_process import ADMIN_TOKEN, App, jobs_of, serving
from hosts.namespaces import wait_until
from vitascope import storage
from vitascope.api.store.keys import Allowance
from vitascope.api.store.objects import Asked
from vitascope.api.store.records import Job, Kind
from vitascope.config import Settings


def picture(width: int = 64, height: int = 48) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


def refusal(call: Any, *arguments: Any, **how: Any) -> tuple[int, str | None, str | None]:
    """Status, code and parameter of the error that a call ends in."""
    with pytest.raises(openai.APIStatusError) as raised:
        call(*arguments, **how)
    body = raised.value.response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return raised.value.status_code, raised.value.code, raised.value.param


def status_of(call: Any) -> int:
    """The status of a call's answer."""
    try:
        call()
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def test_every_field_of_a_request_may_be_given(local: Served) -> None:
    client = local.client("alice")
    extra = {"fps": 12, "seed": 5, "steps": 3, "guidance": 2.5, "negative_prompt": "a dog", "solver": "unipc"}
    made = client.videos.create(prompt="a cat", size="32x64", seconds="0.5", extra_body=extra)
    video = finished(client, made.id)
    assert (video.size, video.seconds, video.model) == ("32x64", "0.5", "vitascope")
    assert {key: video.settings[key] for key in extra} == extra
    (request,) = local.app.sent
    assert (request.width, request.height, request.size.n_frames) == (32, 64, 6)


def test_seeds_are_numbers_that_browsers_can_read(local: Served) -> None:
    client = local.client("alice")
    seeds = {client.videos.create(prompt="a cat").settings["seed"] for _ in range(4)}
    assert len(seeds) == 4
    assert max(seeds) < 2**53


def test_200_clients_at_once(local: Served) -> None:
    client = local.client("many")

    def one(i: int) -> str:
        made = client.videos.create(prompt=f"cat {i}", size="32x32", seconds="0.25")
        assert client.videos.retrieve(made.id).id == made.id
        assert len(client.videos.list(limit=3).data) <= 3
        return made.id

    with ThreadPoolExecutor(200) as clients:
        ids = list(clients.map(one, range(200)))
    assert {finished(client, of).status for of in ids} == {"completed"}
    assert [video.id for video in client.videos.list(limit=100)] == sorted(ids, reverse=True)
    assert len(local.app.sent) == 200


def test_json_is_a_form_without_files(local: Served) -> None:
    key = local.keys.add("alice", Allowance())
    headers = {"Authorization": f"Bearer {key}"}
    body = {"prompt": "a cat", "size": "64x48", "seconds": 1, "seed": 3, "model": "vitascope"}
    answer = httpx.post(f"{local.url}/v1/videos", json=body, headers=headers)
    assert (answer.status_code, answer.json()["settings"]["seed"]) == (200, 3)


def test_a_reference_may_be_a_file_a_data_url_or_an_id(local: Served) -> None:
    client, content = local.client("alice"), picture()
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    file = client.files.create(file=("first.png", content), purpose="vision")
    within = [{"image_url": url}, {"file_id": file.id}, url, file.id]  # the client itself takes files only
    ways = [
        {"input_reference": ("a.png", content)},
        *({"extra_body": {"input_reference": w}} for w in within),
    ]
    for way in ways:
        made = client.videos.create(prompt="a cat", **way)
        assert finished(client, made.id).status == "completed"
        assert made.settings["mode"] == "image_to_video"
        request = local.app.sent[-1]
        assert Path(request.image or "").read_bytes() == content
    assert made.settings["image"] == file.id
    assert len(list(client.files.list())) == 4


def test_what_is_made_from_a_video(local: Served) -> None:
    client = local.client("alice")
    first = client.videos.create(prompt="a cat", size="64x48", seconds="1", extra_body={"seed": 9, "fps": 10})
    finished(client, first.id)
    remixed = client.videos.remix(first.id, prompt="a dog")
    assert remixed.remixed_from_video_id == first.id
    finished(client, remixed.id)
    source, remix = local.app.sent
    assert remix == source.model_copy(update={"custom_id": remixed.id, "prompt": "a dog"})
    source = {"video": openai.omit, "extra_body": {"video": {"id": first.id}}}
    longer = finished(client, client.videos.extend(prompt="on", seconds="2", **source).id)
    assert (longer.seconds, longer.settings["video"]) == ("3", first.id)
    request = local.app.sent[-1]
    assert (request.mode, request.width, request.fps) == ("extend_forward", 64, 10)
    assert Path(request.video or "").suffix == ".mp4"
    content = client.videos.download_content(first.id).read()
    uploaded = client.videos.extend(prompt="on", video=("mine.mp4", content), seconds="2")
    assert (uploaded.seconds, uploaded.size, uploaded.settings["fps"]) == ("3", "64x48", 10)


def test_a_refused_edit_keeps_no_file(local: Served) -> None:
    client = local.client("alice")
    assert refusal(client.videos.edit, prompt="on", video=("a.mp4", b"no video"))[0] == 400
    video = {"video": ("a.png", picture()), "extra_body": {"steps": 0}}
    assert refusal(client.videos.edit, prompt="on", **video)[0] == 400
    assert list(client.files.list()) == []
    made = client.videos.create(prompt="a cat", seconds="1")
    finished(client, made.id)
    body = {"video": {"id": made.id}, "strength": 0.5, "user": "me"}
    edited = finished(client, client.videos.edit(prompt="on", video=openai.omit, extra_body=body).id)
    request = local.app.sent[-1]
    assert (edited.status, request.mode, request.strength) == ("completed", "video_to_video", 0.5)


def test_lists_in_forms(local: Served) -> None:
    """As OpenAI's client writes them, whose bodies are forms."""
    client = local.client("alice")
    ids = [client.files.create(file=("a.png", picture()), purpose="vision").id for _ in "12"]
    kept = [{"image": ids[0], "seconds": 0.0}, {"image": ids[1], "seconds": 0.5}]
    body = {"mode": "infill", "keep": kept, "guidance_interval": [0.25, 0.75]}
    made = client.videos.create(prompt="a cat", seconds="1", extra_body=body)
    assert [(one.pop("image"), float(one.pop("seconds"))) for one in made.settings["keep"]] == [
        (one["image"], one["seconds"]) for one in kept
    ]
    assert made.settings["guidance_interval"] == [0.25, 0.75]
    headers = {"Authorization": f"Bearer {client.api_key}"}
    ragged = {"prompt": "a", "mode": "infill", "keep[][seconds]": ["0", "1"]}
    upload = {"keep[][image]": ("a.png", picture())}
    answer = httpx.post(f"{local.url}/v1/videos", headers=headers, data=ragged, files=upload)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "keep")
    assert "send JSON instead" in answer.json()["error"]["message"]
    for twice in ({"keep[]": "a", "keep[][seconds]": "1"}, {"keep[][seconds]": "1", "keep[]": "a"}):
        answer = httpx.post(f"{local.url}/v1/videos", headers=headers, data=twice, files=upload)
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "'keep' is given twice")


def test_pictures_to_keep_are_shown_as_they_were_named(local: Served) -> None:
    client = local.client("alice")
    file = client.files.create(file=("first.png", picture()), purpose="vision")
    kept = [{"image": file.id, "seconds": 0}]
    body = {"prompt": "a cat", "mode": "infill", "keep": kept}
    made = client.post("/videos", body=body, cast_to=openai.types.Video)
    assert made.settings["keep"] == kept
    assert local.objects.root not in client.videos.retrieve(made.id).to_json()
    finished(client, made.id)
    assert Path(local.app.sent[-1].keep[0].image or "").read_bytes() == picture()


def test_a_remix_may_be_of_another_model(
    settings_in: Callable[..., Settings], model_folder: Path, tmp_path: Path
) -> None:
    settings = settings_in(
        tmp_path, f"generate.models={{big='{model_folder}'}}", "serve.models=['one','two']"
    )
    with serving(settings, app := App()) as url:
        client = Served(settings, url, app).client("alice")
        first = client.videos.create(prompt="a cat", model="big")
        finished(client, first.id)
        assert [model.id for model in client.models.list()] == ["one", "two", "big"]
        assert client.videos.remix(first.id, prompt="a dog").model == "big"
        again = client.videos.remix(first.id, prompt="a dog", extra_body={"model": "two"})
        assert again.model == "two"
        assert client.videos.remix(again.id, prompt="a dog").model == "two"
        unknown = {"extra_body": {"model": "three"}}
        assert refusal(client.videos.remix, first.id, prompt="x", **unknown)[0] == 404


def test_a_job_whose_model_has_left_the_settings_fails_and_harms_no_other(
    settings_in: Callable[..., Settings], model_folder: Path, tmp_path: Path
) -> None:
    both = settings_in(tmp_path, f"generate.models={{big='{model_folder}'}}")
    with serving(both, App()) as url:
        served = Served(both, url)
        key = served.keys.add("alice", Allowance())
        client = served.with_key(key)
        of = client.videos.create(prompt="wait", model="big").id
        wait_until(lambda: client.videos.retrieve(of).status == "in_progress", 30, "the video")
    settings = settings_in(tmp_path)
    jobs = jobs_of(settings)
    (job,), _ = jobs.objects.page("alice", Kind.VIDEO, Job, Asked(1))
    assert (jobs.shape(job).status, jobs.shape(job).progress) == ("in_progress", 0)
    assert jobs.running("alice", of) == (job, None)
    with serving(settings, App()) as url:
        client = Served(settings, url).with_key(key)
        failed = finished(client, of)
        assert failed.error.code == "invalid_request"
        assert "generate.models.big" in failed.error.message
        assert [video.id for video in client.videos.list()] == [of]


def test_what_is_deleted_while_it_is_made_is_in_the_log(
    settings_in: Callable[..., Settings], tmp_path: Path
) -> None:
    settings, log, app = settings_in(tmp_path), [], App()
    with serving(settings, app, lambda job, outcome, _: log.append((job.id, outcome))) as url:
        client = Served(settings, url, app).client("alice")
        made = client.videos.create(prompt="wait")
        wait_until(lambda: bool(app.sent), 30, "the app")
        assert preview_status(client, made.id) == 204
        client.videos.delete(made.id)
        assert log == [(made.id, "cancelled")]
        other = finished(client, client.videos.create(prompt="a cat").id)
        assert preview_status(client, other.id) == 204
        wait_until(lambda: log[1:] == [(other.id, "ok")], 30, "the log")
        client.videos.create(prompt="wait")
        wait_until(lambda: len(app.sent) == 3, 30, "the app")
    assert len(log) == 2  # the end of the service is not the end of the video


def preview_status(client: openai.OpenAI, of: str) -> int:
    """The status of the answer to a request for the preview of a video."""
    headers = {"Authorization": f"Bearer {client.api_key}"}
    return httpx.get(f"{client.base_url}videos/{of}/content?variant=preview", headers=headers).status_code


def test_content_in_ranges_and_as_pictures(local: Served) -> None:
    client = local.client("alice")
    made = client.videos.create(prompt="a cat", seconds="2", extra_body={"fps": 20})
    video = finished(client, made.id)
    whole = client.videos.download_content(made.id).read()
    headers = {"Authorization": f"Bearer {client.api_key}"}
    address = f"{local.url}/v1/videos/{made.id}/content"

    def ranged(text: str) -> httpx.Response:
        return httpx.get(address, headers=headers | {"Range": text})

    assert ranged("bytes=0-99").content == whole[:100]
    assert ranged("bytes=100-").content == whole[100:]
    assert ranged("bytes=-7").content == whole[-7:]
    part = ranged("bytes=10-1000000000")
    assert (part.status_code, part.content) == (206, whole[10:])
    assert part.headers["content-range"] == f"bytes 10-{len(whole) - 1}/{len(whole)}"
    assert ranged(f"bytes={len(whole)}-").status_code == 416
    assert ranged("bytes=1-2,5-6").content == whole
    small = Image.open(io.BytesIO(client.videos.download_content(made.id, variant="thumbnail").read()))
    assert (small.format, small.size) == ("WEBP", (64, 48))
    sheet = Image.open(io.BytesIO(client.videos.download_content(made.id, variant="spritesheet").read()))
    assert (sheet.format, sheet.size) == ("JPEG", (5 * 64, 5 * 48))
    assert httpx.get(local.url + video.url).content == whole
    assert httpx.get(local.url + video.url[:-1]).status_code == 401
    assert httpx.get(local.url + video.url.replace(made.id, made.id[:-1] + "0")).status_code == 401


def test_pages_of_videos(local: Served) -> None:
    client = local.client("alice")
    ids = [client.videos.create(prompt=f"cat {i}").id for i in range(7)]
    page = client.videos.list(limit=3)
    assert [video.id for video in page.data] == ids[:3:-1]
    assert page.has_more
    assert [video.id for video in client.videos.list(limit=3)] == ids[::-1]
    assert [video.id for video in client.videos.list(limit=2, order="asc", after=ids[2])] == ids[3:]
    assert refusal(client.videos.list, after="../x") == (400, "invalid_request", "after")
    assert refusal(client.videos.list, limit=0) == (400, "invalid_request", "limit")


def test_a_deleted_video_leaves_the_app_and_the_store(local: Served) -> None:
    client = local.client("alice")
    made = client.videos.create(prompt="wait")
    wait_until(lambda: client.videos.retrieve(made.id).status == "in_progress", 30, "the video")
    client.videos.delete(made.id)
    assert local.app.cancelled == [made.id]
    assert refusal(client.videos.retrieve, made.id) == (404, "not_found", "video_id")
    assert list(Path(local.objects.root).rglob(f"*{made.id}*")) == []


def test_a_video_that_cannot_be_made_says_why(local: Served) -> None:
    client = local.client("alice")
    failed = finished(client, client.videos.create(prompt="fail").id)
    assert (failed.status, failed.error.code, failed.error.message) == (
        "failed",
        "too_short",
        "the video is too short",
    )
    assert refusal(client.videos.download_content, failed.id) == (400, "not_ready", "video_id")
    died = finished(client, client.videos.create(prompt="die").id)
    assert (died.status, died.error.code, local.app.deaths) == ("failed", "generation_failed", 3)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"size": "64"}, (400, "invalid_request", "size")),
        ({"size": "63x48"}, (400, "invalid_request", None)),
        ({"size": "99999x99999"}, (400, "invalid_request", None)),
        ({"seconds": "long"}, (400, "invalid_request", "seconds")),
        ({"seconds": "0"}, (400, "invalid_request", "seconds")),
        ({"seconds": "nan"}, (400, "invalid_request", "seconds")),
        ({"model": "sora-2"}, (404, "model_not_found", "model")),
        ({"prompt": " "}, (400, "invalid_request", "prompt")),
        ({"extra_body": {"sede": 1}}, (400, "unknown_parameter", "sede")),
        ({"extra_body": {"mode": "dance"}}, (400, "invalid_request", "mode")),
        ({"extra_body": {"steps": 0}}, (400, "invalid_request", None)),
        ({"extra_body": {"image": "/etc/passwd", "mode": "image_to_video"}}, (400, "invalid_request", None)),
        (
            {"extra_body": {"input_reference": {"file_id": "file_../../x"}}},
            (400, "invalid_request", "input_reference"),
        ),
        (
            {"extra_body": {"input_reference": {"image_url": "http://127.0.0.1/x"}}},
            (400, "invalid_request", "input_reference"),
        ),
        (
            {"extra_body": {"input_reference": {"image_url": "data:image/png;base64,é"}}},
            (400, "invalid_request", "input_reference"),
        ),
    ],
)
def test_wrong_fields_are_named(local: Served, fields: dict[str, Any], expected: tuple) -> None:
    client = local.client("alice")
    assert refusal(client.videos.create, **{"prompt": "a cat"} | fields) == expected
    assert local.app.sent == []


def test_keys_see_their_own(local: Served) -> None:
    alice, bob = local.client("alice"), local.client("bob")
    made = alice.videos.create(prompt="a cat")
    file = alice.files.create(file=("a.png", picture()), purpose="vision")
    finished(alice, made.id)
    assert list(bob.videos.list()) == []
    for call in (bob.videos.retrieve, bob.videos.delete, bob.videos.download_content):
        assert refusal(call, made.id) == (404, "not_found", "video_id")
    reference = {"input_reference": {"file_id": file.id}}
    assert refusal(bob.videos.create, prompt="a cat", extra_body=reference)[:2] == (404, "not_found")
    admin = local.with_key(ADMIN_TOKEN)
    assert [video.id for video in admin.videos.list()] == [made.id]
    assert admin.videos.retrieve(made.id).status == "completed"


@pytest.mark.parametrize(
    "key", ["-", "x", "vsk_alice_", "vsk_alice_" + "0" * 64, "vsk_../alice_0", "vsk_nobody_0"]
)
def test_a_wrong_key_is_refused(local: Served, key: str) -> None:
    local.client("alice")
    answer = httpx.get(f"{local.url}/v1/videos", headers={"Authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{local.url}/health").json() == {"status": "ok"}


def test_a_revoked_key_is_refused_within_seconds(local: Served) -> None:
    client = local.client("alice")
    assert list(client.videos.list()) == []
    local.keys.revoke("alice")
    wait_until(lambda: status_of(client.videos.list) == 401, 10, "the refusal of a revoked key")
    again = local.client("alice")
    wait_until(lambda: status_of(again.videos.list) == 200, 10, "the new key of that name")


def test_a_key_has_limits(local: Served) -> None:
    client = local.client("alice", in_flight=2, max_pixels=64 * 48, max_frames=8, requests_per_minute=8)
    for _ in range(2):
        client.videos.create(prompt="wait")
    assert refusal(client.videos.create, prompt="wait") == (429, "too_many_in_flight", None)
    assert refusal(client.videos.create, prompt="a", size="64x64") == (400, "invalid_request", "size")
    assert refusal(client.videos.create, prompt="a", seconds="2") == (400, "invalid_request", "seconds")
    assert len(client.videos.list().data) == 2
    local.app.waiting.set()
    assert refusal(lambda: [client.videos.list() for _ in range(9)]) == (429, "rate_limit_exceeded", None)


@pytest.mark.parametrize(
    "of", ["..", "../keys/alice", "video_" + "0" * 31, "video_" + "0" * 33, "x" * 5000, "video_%2e"]
)
def test_an_id_that_is_none_is_not_found(local: Served, of: str) -> None:
    client = local.client("alice")
    headers = {"Authorization": f"Bearer {client.api_key}"}
    for path in (f"/v1/videos/{of}", f"/v1/videos/{of.replace('/', '%2f')}/content", f"/v1/files/{of}"):
        answer = httpx.get(local.url + path, headers=headers)
        assert answer.status_code in (404, 405), path
        assert answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused(local: Served) -> None:
    client = local.client("alice")
    large = b"x" * (3 << 20)
    assert refusal(client.files.create, file=("large.bin", large), purpose="vision")[0] == 413
    headers = {"Authorization": f"Bearer {client.api_key}", "Content-Type": "application/json"}
    answer = httpx.post(f"{local.url}/v1/videos", content=iter([b"x" * 65536] * 40), headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")
    assert list(client.files.list()) == []


def test_other_methods_and_bodies(local: Served) -> None:
    headers = {"Authorization": f"Bearer {local.client('alice').api_key}"}
    for method, path, body, status in [
        ("PUT", "/v1/videos", None, 405),
        ("GET", "/v1/nothing", None, 404),
        ("POST", "/v1/videos", b"{", 400),
        ("POST", "/v1/videos", b"[]", 400),
        ("POST", "/v1/videos", b'{"prompt": "\\ud800"}', 400),
        ("POST", "/v1/videos", b"[" * 100_000, 400),
    ]:
        typed = headers | {"Content-Type": "application/json"}
        answer = httpx.request(method, local.url + path, content=body, headers=typed)
        assert (answer.status_code, answer.json().keys()) == (status, {"error"}), path
    wrong = httpx.post(f"{local.url}/v1/videos", content=b"x", headers=headers | {"Content-Type": "text/csv"})
    assert wrong.status_code == 415


def test_the_store_may_be_a_bucket(settings_in: Callable[..., Settings], s3: str) -> None:
    settings, made = settings_in(f"{s3}/run"), App()
    with serving(settings, made) as url:
        served = Served(settings, url, made)
        client = served.client("alice", in_flight=5)
        video = client.videos.create(prompt="a cat", input_reference=("a.png", picture()), seconds="2")
        assert finished(client, video.id).status == "completed"
        whole = client.videos.download_content(video.id).read()
        headers = {"Authorization": f"Bearer {client.api_key}", "Range": "bytes=5-8"}
        address = f"{url}/v1/videos/{video.id}/content"
        assert httpx.get(address, headers=headers).content == whole[5:9]
        assert client.videos.download_content(video.id, variant="thumbnail").read()[:4] == b"RIFF"
        assert [one.id for one in client.videos.list()] == [video.id]
        for one in client.files.list():
            client.files.delete(one.id)
        client.videos.delete(video.id)
        left = [uri.removeprefix(served.objects.root) for uri in storage.list_files(served.objects.root)]
        assert left == ["/keys/alice.json", "/links.json"]
