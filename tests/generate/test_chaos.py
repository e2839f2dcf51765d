"""Whatever is killed, every request has exactly one output, whole, and little is done twice."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image

from processes import ended
from vitascope import storage
from vitascope.config import Settings
from vitascope.generate.app.codec import DecodeWrite
from vitascope.generate.app.denoise import Denoise
from vitascope.generate.app.shares import FREE
from vitascope.generate.app.text import TextEncode
from vitascope.generate.batch.batch import Batch
from vitascope.generate.models import DEFAULT
from vitascope.generate.request import Request

STEPS, IN_FLIGHT = 2, 24
VICTIMS = ("Denoise", "driver", "Generate", "controller", "DecodeWrite", "TextEncode")
LOSE_WORK = ("Denoise", "driver", "Generate")
"""What may have all requests in flight in its hands when it is killed."""


@dataclass
class Chaos:
    """A batch that runs while its processes are killed."""

    settings: Settings
    log: Path
    driver: subprocess.Popen | None = None

    def start(self) -> None:
        script = Path(__file__).with_name("faulty.py")
        command = [sys.executable, str(script), self.settings.model_dump_json(), str(self.log), "1000"]
        address = ray.get_runtime_context().gcs_address
        self.driver = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": address})

    def finished(self) -> int:
        folder = Path(self.settings.path("outputs", "batch"))
        return sum(name.endswith(".json") for name in os.listdir(folder)) if folder.exists() else 0

    def kill(self, victim: str, rng: random.Random) -> None:
        assert self.driver is not None
        if victim == "driver":
            self.driver.kill()
            self.driver.wait()
            self.start()
            return
        name = "SERVE_CONTROLLER_ACTOR" if victim == "controller" else f"#{victim}#"
        wait_until(lambda: bool(actors_of(name)), 120)
        actor = ray.get_actor(rng.choice(actors_of(name)), namespace="serve")
        ray.kill(actor, no_restart=victim != "controller")


def actors_of(name: str) -> list[str]:
    """Those of Serve whose names contain this."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    return [a["name"] for a in actors if a["namespace"] == "serve" and name in a["name"]]


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.2)


def settings_of(folder: Path, model_folder: Path, n: int) -> Settings:
    """A batch of `n` tiny pictures."""
    tiny = {"prompt": "a cat", "width": 16, "height": 16, "seconds": 0, "steps": STEPS, "guidance": 1}
    lines = [tiny | {"custom_id": f"r{number}"} for number in range(n)]
    storage.put(str(folder / "requests.jsonl"), storage.json_lines(lines))
    generate = {"requests": str(folder / "requests.jsonl"), "model": str(model_folder)}
    generate |= {"max_in_flight": IN_FLIGHT, "denoise_replicas": 2, "denoise_cpus": 1, "token_budget": 1024}
    return Settings.model_validate({"run": {"folder": str(folder / "run")}, "generate": generate})


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("n", "n_kills"), [(300, 6), (10_000, 12)])
def test_each_has_one_output_whatever_is_killed(
    ray_cluster: None,  # noqa: ARG001
    model_folder: Path,
    tmp_path: Path,
    n: int,
    n_kills: int,
) -> None:
    chaos = Chaos(settings_of(tmp_path, model_folder, n), tmp_path / "calls")
    rng = random.Random(n)
    victims = list(VICTIMS) * (n_kills // len(VICTIMS))
    rng.shuffle(victims)
    chaos.start()
    assert chaos.driver is not None
    try:
        for number, victim in enumerate(victims):
            after = n * (number + rng.uniform(0.2, 1)) / (n_kills + 1)
            wait_until(lambda least=after: chaos.finished() >= least or chaos.driver.poll() is not None, 3600)
            assert chaos.driver.poll() is None, "the job ended early"
            chaos.kill(victim, rng)
        assert chaos.driver.wait(3600) == 0
    finally:
        ended(chaos.driver)
    check_outputs(chaos.settings, n)
    calls = [int(line) for file in tmp_path.glob("calls-*") for line in file.read_text().split()]
    repeated = sum(calls) - n * STEPS
    lost = Counter(victims)
    print(f"{n} requests, killed {dict(lost)}: {len(calls)} passes, {repeated / n / STEPS:.2%} done twice")
    assert (
        0 <= repeated <= STEPS * IN_FLIGHT * (sum(lost[victim] for victim in LOSE_WORK) + len(calls) // 1000)
    )
    if n >= 10_000:
        assert repeated <= 0.02 * n * STEPS


def check_outputs(settings: Settings, n: int) -> None:
    """One row and one whole output for each request; a sample is as it would be undisturbed."""
    batch = Batch.of(settings)
    requests = {line.number: line.request for line in batch.lines() if isinstance(line.request, Request)}
    rows = storage.rows(storage.join(batch.folder, "manifest.parquet"))
    assert [row["line"] for row in rows] == list(range(1, n + 1))
    assert Counter(row["status"] for row in rows) == {"ok": n}
    assert [row["uri"] for row in rows] == [
        batch.target(requests[i]).location + ".png" for i in range(1, n + 1)
    ]
    files = Counter(path.suffix for path in Path(batch.folder).iterdir() if path.name[0] != ".")
    assert files == {".png": n, ".json": n, ".parquet": 1}
    sample = random.Random(0).sample(rows, 200)
    for row in sample:
        sidecar = json.loads(Path(row["uri"]).with_suffix(".json").read_text())
        assert (sidecar["custom_id"], sidecar["uri"]) == (row["custom_id"], row["uri"])
        assert sidecar["seed"] == requests[row["line"]].seed
        assert pixels(row["uri"]).shape == (16, 16, 3)
    undisturbed = asyncio.run(made_here(batch, settings, [requests[row["line"]] for row in sample[:20]]))
    for row, picture in zip(sample, undisturbed, strict=False):
        assert np.abs(pixels(row["uri"]).astype(int) - picture).max() <= 1


async def made_here(batch: Batch, settings: Settings, requests: list[Request]) -> list[np.ndarray]:
    """The pictures of these requests, one after the other, in this process."""
    card = batch.models.each[DEFAULT].opened.card
    text, codec, denoise = TextEncode(card.encode), DecodeWrite(card), Denoise(DEFAULT, settings)
    made: list[Any] = []
    for request in requests:
        now, target = time.time(), batch.models.target(storage.join(settings.run.folder, "again"), request)
        states = text(request, ready=now, takes=FREE)
        denoised = await denoise(request, target, states, None, takes=FREE, arrived=now)
        made.append(pixels(str((await codec.write(request, denoised, None, target))["uri"])))
    return made


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(uri))
