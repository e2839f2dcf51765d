"""Folders of published weights, as diffusers and transformers write them, wherever they are."""

import functools
import json
from pathlib import Path
from typing import Any

from vitascope import checksum, storage
from vitascope.encode import machine
from vitascope.errors import Missing, Mistake
from vitascope.records import stable_id
from vitascope.weights import PICKLES

_LARGE_BYTES = 64 << 20


def part(folder: str, name: str) -> str:
    """The folder of a part of a pipeline; `folder` itself if it is that part alone."""
    inside = storage.join(folder, name)
    return inside if storage.list_files(inside) else folder


def config_of(folder: str, setting: str) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        Missing: there is none; names the setting to correct.
        Mistake: it is no JSON object.
    """
    location = storage.join(folder, "config.json")
    if not storage.exists(location):
        raise Missing(f"no config.json in {folder}; {setting} names a folder of published weights")
    try:
        found = json.loads(storage.read_bytes(location))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Mistake(f"{location} is no JSON object; copy the folder again, or correct {setting}")
    return found


def weight_files(folder: str, setting: str) -> list[str]:
    """The folder's safetensors files.

    Raises:
        Missing: there are none; says whether there are weights in a format that could run code.
    """
    files = storage.list_files(folder)
    if found := [file for file in files if file.endswith(".safetensors")]:
        return found
    pickles = [file for file in files if file.endswith(PICKLES)]
    has = f"only {pickles[0].rpartition('/')[2]}, a pickle, which can run code" if pickles else "no weights"
    raise Missing(f"{folder} holds {has}; {setting} names a folder with safetensors files")


def content_hash(file: str) -> str:
    """The SHA-256 of a file's content; the machine remembers that of a large one until the file changes."""
    version = storage.version(file)
    if not storage.is_remote(file):  # a copy may keep the time of its original, and not that of its node
        about = Path(storage.absolute(file)).stat()
        version = f"{version}-{about.st_ctime_ns}-{about.st_ino}"
    return _content_hash(file, version)


@functools.cache
def _content_hash(file: str, version: str) -> str:
    if storage.size_bytes(file) < _LARGE_BYTES:
        return checksum.digest(file)
    return machine.remembered(stable_id(file, version), lambda: checksum.digest(file))
