"""Boxes of ISO files (mp4, mov, JPEG 2000), chunks of PNG.

They are read for what the libraries do not report: PyAV reports neither a track's handler nor its references
(ISO/IEC 14496-12, 8.3.3 and 8.4.3), Pillow no ICC profile of JPEG 2000 and few chunks of a PNG.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"

_ASIDE = {b"auxl", b"thmb", b"vdep", b"vplx", b"cdsc"}  # kinds of references from what belongs to another
_MOST_BYTES = 64 << 20  # of moov: that of a day of 60 frames/s


def asides(file: Any) -> set[int]:
    """The ids of tracks that hold another's alpha, depth, thumbnails or descriptions; `file` is open."""
    moov = _moov(file)
    traks = [dict(boxes(content)) for kind, content in boxes(moov) if kind == b"trak"]
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


def boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The kind and the content of each box, up to the first that is not whole."""
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
    handler = bytes(dict(boxes(trak.get(b"mdia", memoryview(b"")))).get(b"hdlr", b""))[8:12]
    refers = {kind for kind, _ in boxes(trak.get(b"tref", memoryview(b"")))}
    return handler == b"auxv" or bool(refers & _ASIDE)


class Chunk(NamedTuple):
    """A chunk of a PNG, and the position of the next one."""

    kind: bytes
    data: bytes
    end: int


def chunks(content: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG; the last one is cut short if the file is."""
    at = len(PNG)
    while at + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        begin, at = at + 8, at + 12 + size
        yield Chunk(kind, content[begin : begin + size], at)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk as it is written."""
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
