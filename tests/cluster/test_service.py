"""The generation app behind HTTP: who shows the token gets a video, a stranger nothing."""

import json
from pathlib import Path

import pytest

from cluster.conftest import BIN, Head
from hosts.namespaces import needs_hosts, wait_until
from vitascope import config
from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import make_text_encoder
from vitascope.model.card import ModelCard, save_model
from vitascope.model.settings import ModelSettings

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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a tiny model in it, and its settings."""
    folder = tmp_path_factory.mktemp("service")
    encode = EncodeSettings(dct_channels=12)
    card = ModelCard(
        model=ModelSettings(depth=2, width=64, heads=2, patch=2),
        encode=encode,
        channels=make_codec(encode).channels,
        text_dim=make_text_encoder(encode).dim,
        fingerprint="tiny",
        timestep_shift=1.0,
        step=7,
    )
    save_model(str(folder / "model"), card.build().state_dict(), card)
    settings = config.load(None, [f"run.folder={folder}", "generate.steps=2", "generate.batch=service"])
    (folder / "settings.toml").write_text(config.to_toml(settings))
    return folder


@needs_hosts
def test_a_video_for_who_shows_the_token(head: Head, run: Path) -> None:
    app = ["vitascope.generate.service:app", f"settings={run}/settings.toml"]
    served = head.host.popen([str(BIN / "serve"), "run", "--address", "auto", *app])
    wait_until(lambda: "ready at http" in served.said() or served.poll() is not None, 180, served.said())
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
    served.terminate()
    served.wait(60)
