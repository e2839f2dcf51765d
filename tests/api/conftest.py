"""Fixtures of the tests of the HTTP service: a tiny model, the service in this process, and on Ray."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from ray import serve

from synthetic import tiny_card
from vitascope import config
from vitascope.api import app
from vitascope.api.store.keys import Allowance, Keys
from vitascope.api.store.objects import Objects
from vitascope.config import Settings
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

    def make(folder: Path, *more: str) -> Settings:
        small = ["generate.steps=2", "generate.batch=service", "serve.size=64x48", "serve.seconds=1"]
        return config.load(None, [f"run.folder={folder}", f"generate.model={model_folder}", *small, *more])

    return make


@dataclass(frozen=True)
class Served:
    """A running service."""

    settings: Settings
    url: str

    @property
    def keys(self) -> Keys:
        return Keys(app.root_of(self.settings))

    @property
    def objects(self) -> Objects:
        return Objects(app.root_of(self.settings))

    def client(self, name: str, **allowance: Any) -> openai.OpenAI:
        """OpenAI's client with a new key of this name."""
        key = self.keys.add(name, Allowance(**allowance))
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)


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
    settings = settings_in(tmp_path_factory.mktemp("served"))
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(app.service(settings), name="api", route_prefix="/")
    yield Served(settings, f"http://127.0.0.1:{port}")
    serve.delete("api")
    serve.shutdown()
