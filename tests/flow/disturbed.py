"""Runs of clips and encode that are disturbed, what is seen of them meanwhile, and what they leave."""

import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import ray

from flow import sources
from vitascope import config, storage
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.samples import to_bytes
from vitascope.encode.shards import read_samples
from vitascope.records import stable_id

VITASCOPE = str(Path(sys.executable).parent / "vitascope")
PARTS = {"clips": "/part-", "encode": "/shard-"}
"""In the names of what each stage commits piece by piece."""


def prepared(folder: Path, run: str, copies: int) -> Settings:
    """Settings for small latents of copies of all kinds of files, which are put into a folder or bucket."""
    made = Path(tempfile.mkdtemp(dir=folder))
    sources.make(made)
    for source in (file for file in made.iterdir() if file.name in {*sources.BAD, *sources.CLIPS}):
        for n in range(copies):
            storage.put(f"{run}/in/{source.stem}-{n}{source.suffix}", source.read_bytes())
            if source.name != "mute.png":
                storage.put(f"{run}/in/{source.stem}-{n}.txt", f"{source.stem}, {n}".encode())
    return Settings.model_validate(
        {
            "run": {"folder": f"{run}/run"},
            "clips": {"input": f"{run}/in", "duplicates": "keep"},
            "encode": {"max_pixels": 9216, "frame_counts": (1, 9, 17), "shard_tokens": 200},
            "feed": {"token_budget": 512},
        }
    )


def moved(settings: Settings, folder: str) -> Settings:
    """The same settings for another run's folder."""
    return Settings.model_validate(settings.model_dump() | {"run": {"folder": folder}})


def command(settings: Settings, stage: str) -> list[str]:
    """What a user starts a stage with."""
    config.save(settings)
    return [VITASCOPE, stage, settings.path(config.RESOLVED)]


def start(settings: Settings, stage: str, **environment: str) -> subprocess.Popen:
    """A stage in a process of its own, on the cluster that this process is connected to."""
    ours = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    ours |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command(settings, stage), env=os.environ | ours | environment)


def left(settings: Settings, stage: str) -> dict[str, Any]:
    """What a stage has made: its tables, and every sample's latent and text to the last bit."""
    if stage == "clips":
        return {name: storage.rows(settings.path(name)) for name in ("videos", "clips")}
    folder = latents_folder(settings)
    index = storage.rows(storage.join(folder, "index.parquet"))
    samples = read_samples(folder, [(row["shard"], row["row"]) for row in index])
    bits = {s.sample_id: [stable_id(to_bytes(t)) for t in (s.latent, s.text)] for s in samples}
    assert list(bits) == [row["sample_id"] for row in index]
    return {"index": index, "drops": storage.rows(f"{folder}/drops.parquet"), "bits": bits}


def n_committed(settings: Settings, stage: str) -> int:
    """The number of a stage's parts."""
    return sum(PARTS[stage] in uri for uri in storage.list_files(settings.run.folder))


def wait_for_parts(driver: subprocess.Popen, settings: Settings, stage: str, n: int) -> None:
    """Waits until the stage that `driver` runs has committed this many parts; fails if it ends before."""
    while n_committed(settings, stage) < n:
        assert driver.poll() is None, "the stage ended before it was disturbed"
        time.sleep(0.02)


class Onlooker:
    """Another process that reads all that becomes visible in a run's folder.

    Attributes:
        versions: the versions it has seen of every file.
        torn: what could not be read, and why.
    """

    def __init__(self, folder: str) -> None:
        self.versions: defaultdict[str, set[str]] = defaultdict(set)
        self.torn: list[str] = []
        self._folder = folder

    def versions_of(self, stage: str) -> list[set[str]]:
        """Of each part that the stage has committed."""
        return [seen for uri, seen in self.versions.items() if PARTS[stage] in uri]

    def look(self) -> None:
        for file in storage.listing(self._folder):
            if file.version in self.versions[file.uri]:
                continue
            self.versions[file.uri].add(file.version)
            try:
                if file.uri.endswith(".parquet"):
                    pq.read_table(io.BytesIO(storage.read_bytes(file.uri))).validate(full=True)
                elif file.uri.endswith(".json"):
                    storage.read_json(file.uri)
            except Exception as error:
                self.torn.append(f"{file.uri}: {error!r}")

    @contextmanager
    def looking(self) -> Iterator["Onlooker"]:
        """Looks again and again until the block ends, and once more."""
        ended = threading.Event()

        def on() -> None:
            while not ended.wait(0.2):
                self.look()

        thread = threading.Thread(target=on)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
        self.look()


def processes(*words: str) -> list[psutil.Process]:
    """Descendants of this process with one of these words in their command line."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if any(word in line for word in words):
            found.append(process)
    return found
