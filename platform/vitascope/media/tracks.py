"""Which tracks of an mp4 or mov are not shown.

PyAV tells neither a track's handler nor its references, so the few boxes that say it are read here
(ISO/IEC 14496-12, 8.3.3 and 8.4.3).
"""

import struct
from collections.abc import Iterator
from typing import Any

_ASIDE = {b"auxl", b"thmb", b"vdep", b"vplx", b"cdsc"}  # kinds of references from what belongs to another
_MOST_BYTES = 64 << 20  # of moov: that of a day of 60 frames/s


def asides(file: Any) -> set[int]:
    """The ids of tracks that hold another's alpha, depth, thumbnails or descriptions; `file` is open."""
    moov = _moov(file)
    traks = [dict(_boxes(content)) for kind, content in _boxes(moov) if kind == b"trak"]
    return {_id(trak) for trak in traks if b"tkhd" in trak and _is_aside(trak)}


def _moov(file: Any) -> memoryview:
    at = 0
    file.seek(0)
    while len(head := file.read(16)) >= 8:
        size, kind = struct.unpack(">I4s", head[:8])
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack(">Q", head[8:])
        if kind == b"moov":
            file.seek(at + 8)
            return memoryview(file.read(min(max(size - 8, 0), _MOST_BYTES)))
        if size < 8:
            break
        at += size
        file.seek(at)
    return memoryview(b"")


def _boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    while len(content) >= 8:
        size, kind = struct.unpack(">I4s", content[:8])
        if not 8 <= size <= len(content):
            return
        yield kind, content[8:size]
        content = content[size:]


def _id(trak: dict[bytes, memoryview]) -> int:
    head = bytes(trak[b"tkhd"])
    return int.from_bytes(head[20:24] if head[:1] == b"\1" else head[12:16], "big")


def _is_aside(trak: dict[bytes, memoryview]) -> bool:
    handler = bytes(dict(_boxes(trak.get(b"mdia", memoryview(b"")))).get(b"hdlr", b""))[8:12]
    refers = {kind for kind, _ in _boxes(trak.get(b"tref", memoryview(b"")))}
    return handler == b"auxv" or bool(refers & _ASIDE)
