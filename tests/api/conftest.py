"""Fixtures of the tests of the HTTP service: a tiny model, the service in this process, and on Ray."""

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from ray import serve

from api.in_process import App, serving
from synthetic import tiny_card
from vitascope import config
from vitascope.api import app
from vitascope.api.store.keys import Allowance, Keys
from vitascope.api.store.objects import Objects
from vitascope.config import Settings
from vitascope.generate.app.serving import remove_at_once
from vitascope.model.formats.card import save_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as files."""
    folder, card = tmp_path_factory.mktemp("model"), tiny_card()
    save_model(str(folder), card.build().state_dict(), card)
    return folder


@pytest.fixture(scope="session")
def settings_in(model_folder: Path) -> Callable[..., Settings]:
    """Settings of a run in a folder, with the tiny model and small defaults."""

    def make(folder: Path | str, *more: str) -> Settings:
        small = ["generate.steps=2", "generate.batch=service", "serve.size=64x48", "serve.seconds=1"]
        return config.load(None, [f"run.folder={folder}", f"generate.model={model_folder}", *small, *more])

    return make


@dataclass(frozen=True)
class Served:
    """A running service, and the stand-in for its app if it has one."""

    settings: Settings
    url: str
    app: App = field(default_factory=App)

    @property
    def keys(self) -> Keys:
        return Keys(self.objects.root)

    @property
    def objects(self) -> Objects:
        return Objects.of(self.settings)

    def client(self, name: str, **allowance: Any) -> openai.OpenAI:
        """OpenAI's client with a new key of this name."""
        return self.with_key(self.keys.add(name, Allowance(**allowance)))

    def with_key(self, key: str) -> openai.OpenAI:
        """OpenAI's client with a key."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)


def finished(client: openai.OpenAI, of: str, within_s: float = 120) -> openai.types.Video:
    """The video once it has ended."""
    deadline = time.monotonic() + within_s
    while (video := client.videos.retrieve(of)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline, video
        time.sleep(0.05)
    return video


@pytest.fixture
def local(settings_in: Callable[..., Settings], tmp_path: Path) -> Iterator[Served]:
    """The service in this process, with a stand-in for its app."""
    settings, made = settings_in(tmp_path / "run", "serve.max_upload_mib=1"), App()
    with serving(settings, made) as url:
        yield Served(settings, url, made)
        made.waiting.set()


@pytest.fixture(scope="module")
def served(
    ray_cluster: None,  # noqa: ARG001
    settings_in: Callable[..., Settings],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """The service on the session's Ray."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = settings_in(tmp_path_factory.mktemp("served"), "serve.replicas=2")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(app.service(settings), name="api", route_prefix="/")
    yield Served(settings, f"http://127.0.0.1:{port}")
    remove_at_once("api")
    serve.shutdown()
