"""The HTTP service on a cluster: who shows its token gets a video, a stranger nothing."""

import json
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster.conftest import BIN, Head
from hosts.namespaces import needs_hosts, wait_until
from processes import ended
from synthetic import tiny_card
from vitascope import config
from vitascope.api.app import Arguments, app
from vitascope.model.formats.card import save_model

ASK = """
import json, os, sys, urllib.error, urllib.request
token = open(os.environ["RAY_AUTH_TOKEN_PATH"]).read()
answers = []
for header, method, path, body in json.loads(sys.argv[1]):
    headers = {"Authorization": header.replace("TOKEN", token), "Content-Type": "application/json"}
    address = "http://127.0.0.1:8000" + path
    asked = urllib.request.Request(address, body and body.encode(), headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=120) as answer:
            content = answer.read()
            answers.append([answer.status, json.loads(content) if content[:1] == b"{" else len(content)])
    except urllib.error.HTTPError as error:
        answers.append([error.code, json.load(error)])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a tiny model in it, and its settings."""
    folder = tmp_path_factory.mktemp("service")
    card = tiny_card()
    save_model(str(folder / "model"), card.build().state_dict(), card)
    settings = config.load(None, [f"run.folder={folder}", "generate.steps=2", "generate.batch=service"])
    (folder / "settings.toml").write_text(config.to_toml(settings))
    return folder


def test_traces_are_asked_for_where_they_are_begun(run: Path, tmp_path: Path) -> None:
    settings = config.load(str(run / "settings.toml"), ["generate.traces=otlp", "generate.traced_share=0.5"])
    (tmp_path / "settings.toml").write_text(config.to_toml(settings))
    with pytest.raises(ValueError, match="leave it out") as raised:
        app(Arguments(settings=str(tmp_path / "settings.toml")))
    said = yaml.safe_load(str(raised.value).partition("`applications` put ")[2])
    assert ServeDeploySchema(applications=[], **said).tracing_config.sampling_ratio == 0.5


@needs_hosts
def test_a_video_for_who_shows_the_token(head: Head, run: Path) -> None:
    application = {"import_path": "vitascope.api.app:app", "args": {"settings": f"{run}/settings.toml"}}
    traced = {"enabled": True, "sampling_ratio": 1.0}
    (run / "serve.yaml").write_text(yaml.dump({"applications": [application], "tracing_config": traced}))
    served = head.host.popen([str(BIN / "serve"), "run", "--address", "auto", str(run / "serve.yaml")])
    status = [str(BIN / "serve"), "status"]
    wait_until(lambda: "status: RUNNING" in head.host.run(status).stdout, 400, "the app")
    good = json.dumps({"prompt": "a cat", "size": "64x48", "seconds": 1})

    def asked(*requests: tuple[str, str, str, str | None]) -> list[tuple[int, dict]]:
        return json.loads(head.python("-c", ASK, json.dumps(requests)))

    answers = asked(
        ("", "POST", "/v1/videos", good),
        ("Bearer wrong", "POST", "/v1/videos", good),
        ("Bearer ", "GET", "/v1/videos", None),
        ("Bearer TOKEN", "PUT", "/v1/videos", good),
        ("Bearer TOKEN", "POST", "/v1/videos", good.replace("seconds", "secnds")),
        ("Bearer TOKEN", "POST", "/v1/videos", good),
    )
    assert [status for status, _ in answers] == [401, 401, 401, 405, 400, 200]
    assert "did you mean 'seconds'" in answers[4][1]["error"]["message"]
    of = answers[5][1]["id"]
    state = lambda: asked(("Bearer TOKEN", "GET", f"/v1/videos/{of}", None))[0][1]["status"]  # noqa: E731
    wait_until(lambda: state() == "completed", 240, "the video")
    ((status_of_content, n_bytes),) = asked(("Bearer TOKEN", "GET", f"/v1/videos/{of}/content", None))
    assert status_of_content == 200
    (made,) = (run / "outputs" / "service").rglob("*.mp4")
    assert made.stat().st_size == n_bytes > 500
    spans = "".join(path.read_text() for path in head.temporary.rglob("serve/spans/*"))
    for name in ("Api", "RunnerReplica", "Generate", "TextEncode", "Denoise", "DecodeWrite"):
        assert f'"name": "replica_handle_request {name}' in spans
    ended(served)
    served.wait(60)
