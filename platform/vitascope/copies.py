"""Copies of files, a part at a time."""

import os
import shutil

from vitascope import storage

_PART_BYTES = 8 << 20


def copy_file(source: str, to: str) -> None:
    """Copies a file of any size; the copy becomes visible when it is whole, and replaces an existing file."""
    fs, path = storage.filesystem(to)
    hidden = path if storage.is_remote(to) else os.path.join(*_beside(path))
    with storage.open_file(source) as content:
        sink = fs.open(hidden, "wb")
        try:
            shutil.copyfileobj(content, sink, _PART_BYTES)
            sink.close()
        except BaseException:
            if storage.is_remote(to):  # closing would commit the partial file
                sink.discard()
                sink.closed = True
            else:
                sink.close()
                os.unlink(hidden)
            raise
    if hidden != path:
        os.replace(hidden, path)


def _beside(path: str) -> tuple[str, str]:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    return folder, f".{name}.{os.getpid()}"
