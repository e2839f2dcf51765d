"""Folders of published weights, as diffusers and transformers write them, wherever they are."""

import atexit
import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from vitascope import checksum, storage
from vitascope.errors import Missing, Mistake
from vitascope.records import stable_id
from vitascope.weights import PICKLES

_CHUNK = 8 << 20
_PARTS, _PART_BYTES = 64, 1 << 20


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
    """A hash of a file's content, computed once by each process as long as the file stays the same.

    Of a file above 64 MiB it is that of its size and of 64 parts of 1 MiB, spread evenly from its beginning
    to its end: weights that are trained change in all of them.
    """
    return _content_hash(file, storage.version(file))


@functools.cache
def _content_hash(file: str, version: str) -> str:  # noqa: ARG001 - another version is hashed again
    size = storage.size_bytes(file)
    if size <= _PARTS * _PART_BYTES:
        return checksum.digest(file)
    starts = [(size - _PART_BYTES) * n // (_PARTS - 1) for n in range(_PARTS)]
    parts = (storage.read_bytes(file, start, start + _PART_BYTES) for start in starts)
    return stable_id(size, *(hashlib.sha256(part).hexdigest() for part in parts))


@functools.cache
def local_copy(folder: str) -> Path:
    """A local folder with the same files; a copy, kept as long as this process, if it is not local."""
    if not storage.is_remote(folder):
        return Path(folder)
    copy = Path(tempfile.mkdtemp(prefix="vitascope-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for file in storage.list_files(folder):
        target = copy / file.removeprefix(folder).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with storage.open_file(file) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, _CHUNK)
    return copy
