"""The generation app behind HTTP: who shows the token gets a video, a stranger nothing."""

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
from vitascope.generate.service import Arguments, app
from vitascope.model.formats.card import save_model

ASK = """
import json, os, sys, urllib.error, urllib.request
token = open(os.environ["RAY_AUTH_TOKEN_PATH"]).read()
answers = []
for header, method, body in json.loads(sys.argv[1]):
    headers = {"Authorization": header.replace("TOKEN", token)} if header else {}
    asked = urllib.request.Request("http://127.0.0.1:8000/", body and body.encode(), headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=120) as answer:
            answers.append([answer.status, json.load(answer)])
    except urllib.error.HTTPError as error:
        answers.append([error.code, json.load(error)])
print(json.dumps(answers))
"""

SCRAPE = """
import json, os, urllib.request
pages = json.load(open(os.environ["RAY_TMPDIR"] + "/ray/prom_metrics_service_discovery.json"))[0]["targets"]
texts = [urllib.request.urlopen(f"http://{page}/metrics", timeout=10).read().decode() for page in pages]
lines = [l for text in texts for l in text.splitlines() if l.startswith("ray_vitascope_requests_total")]
print(json.dumps([line.split("outcome=")[1].split(",")[0].strip('}"') for line in lines]))
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
    application = {
        "import_path": "vitascope.generate.service:app",
        "args": {"settings": f"{run}/settings.toml"},
    }
    traced = {"enabled": True, "sampling_ratio": 1.0}
    (run / "serve.yaml").write_text(yaml.dump({"applications": [application], "tracing_config": traced}))
    served = head.host.popen([str(BIN / "serve"), "run", "--address", "auto", str(run / "serve.yaml")])
    status = [str(BIN / "serve"), "status"]
    wait_until(lambda: "status: RUNNING" in head.host.run(status).stdout, 400, "the app")
    good = json.dumps({"custom_id": "a/1", "prompt": "a cat", "width": 64, "height": 48, "seconds": 1})
    bad = json.dumps({"custom_id": "b", "prompt": "a cat", "width": 64, "height": 48, "secnds": 1})
    asked = [
        ("", "POST", good),
        ("Bearer wrong", "POST", good),
        ("Bearer ", "GET", None),
        ("Bearer TOKEN", "GET", None),
        ("Bearer TOKEN", "POST", bad),
        ("Bearer TOKEN", "POST", good),
    ]
    answers = json.loads(head.python("-c", ASK, json.dumps(asked)))
    assert [status for status, _ in answers] == [401, 401, 401, 405, 400, 200]
    assert "did you mean 'seconds'" in answers[4][1]["detail"]
    sidecar = answers[5][1]
    assert sidecar["uri"].startswith(str(run / "outputs" / "service"))
    assert Path(sidecar["uri"]).stat().st_size > 500
    assert [path.suffix for path in sorted((run / "outputs" / "service").iterdir())] == [".json", ".mp4"]
    counted = lambda: set(json.loads(head.python("-c", SCRAPE)))  # noqa: E731
    wait_until(lambda: counted() == {"ok", "invalid_request"}, 240, "requests in the metrics")
    spans = "".join(path.read_text() for path in head.temporary.rglob("serve/spans/*"))
    for name in ("Service", "Generate", "TextEncode", "Denoise", "DecodeWrite"):
        assert f'"name": "replica_handle_request {name}' in spans
    ended(served)
    served.wait(60)
