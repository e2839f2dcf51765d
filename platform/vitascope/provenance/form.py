"""Bytes that C2PA's own hashes do not cover.

The hash of an mp4 leaves out its boxes `ftyp`, `free`, `skip` and `mfra`; no hash covers the padding after a
signature, the labels and flags of some boxes of a manifest, and what wraps the manifest in its file. A change
there says nothing else about a video, but a file that was changed is not the file that was signed. So our
manifests hold a hash of those boxes, and the rest is compared with the one form in which it is written.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

ASSERTION = "org.vitascope.generation"
"""The label of our own assertion."""
_PNG = b"\x89PNG\r\n\x1a\n"
_LEFT_OUT = (b"ftyp", b"free", b"skip", b"mfra")
_OF_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # the type of the uuid box with the manifest
_WRAPPED = _OF_C2PA + bytes(4) + b"manifest\0" + bytes(8)
_STORE, _ASSERTIONS, _SIGNATURE = "c2pa", "c2pa.assertions", "c2pa.signature"
_PARTS = {_ASSERTIONS, "c2pa.claim.v2", _SIGNATURE}
# The end of a COSE signature: padding, no payload, and the signature itself.
_PADDED = re.compile(rb"\x63pad(?:[\x40-\x57]|\x58.|\x59..)\0*\xf6(?:\x58.|\x59..).*", re.DOTALL)


class _Malformed(ValueError):
    """A box is not as it was written; the text says which."""


class _Box(NamedTuple):
    """A box of an mp4, or a chunk of a png: its type, and the range of its content."""

    kind: bytes
    start: int
    stop: int


def left_out(file: IO[bytes]) -> str:
    """SHA-256 of the boxes that the hash of an mp4 leaves out; of nothing for a png.

    Raises:
        ValueError: its boxes do not fill it.
    """
    found = hashlib.sha256()
    for box in _boxes(file):
        if box.kind in _LEFT_OUT:
            found.update(box.kind + _content(file, box))
    return found.hexdigest()


def flaw(file: IO[bytes], expected: str) -> str | None:
    """What is not as our signer wrote it; None if all is. `expected`: `left_out` of the signed file."""
    try:
        if left_out(file) != expected:
            return "a box outside of the signed ones was changed, added or removed"
        _check_store(_store(file))
    except ValueError as error:
        return str(error)
    return None


def _boxes(file: IO[bytes]) -> Iterator[_Box]:
    """The chunks of a png, or the top-level boxes of an mp4."""
    end = file.seek(0, 2)
    file.seek(0)
    is_png = file.read(len(_PNG)) == _PNG
    at = len(_PNG) if is_png else 0
    while at < end:
        file.seek(at)
        header = file.read(16)
        if len(header) < 8:
            raise _Malformed("bytes follow its last box")
        if is_png:
            size, kind = struct.unpack(">I4s", header[:8])
            box, at = _Box(kind, at + 8, at + 8 + size), at + 12 + size
        else:
            box, at = _box(header, at, end), at + (_box(header, at, end).stop - at)
        if at > end:
            raise _Malformed("its last box is not whole")
        yield box


def _box(header: bytes, at: int, end: int) -> _Box:
    size, kind = struct.unpack(">I4s", header[:8])
    inside = 8
    if size == 1 and len(header) == 16:
        size, inside = struct.unpack(">Q", header[8:])[0], 16
    size = size or end - at
    if size < inside:
        raise _Malformed(f"a box has the impossible size {size}")
    return _Box(kind, at + inside, at + size)


def _content(file: IO[bytes], box: _Box) -> bytes:
    file.seek(box.start)
    return file.read(box.stop - box.start)


def _store(file: IO[bytes]) -> bytes:
    """The manifest store, out of what wraps it."""
    for box in _boxes(file):
        content = _content(file, box) if box.kind in (b"uuid", b"caBX") else b""
        if box.kind == b"caBX":
            if int.from_bytes(file.read(4)) != zlib.crc32(box.kind + content):
                raise _Malformed("the checksum of the manifest's chunk is wrong")
            return content
        if content.startswith(_OF_C2PA):
            if not content.startswith(_WRAPPED):
                raise _Malformed("what wraps the manifest was changed")
            return content[len(_WRAPPED) :]
    raise _Malformed("it has no manifest")


def _check_store(content: bytes) -> None:
    """Checks the store, and each manifest of ours in it; hashes in them cover those of others."""
    only, *more = _inside(content)
    if more or only[0] != b"jumb":
        raise _Malformed("the manifest store is not alone")
    label, manifests = _superbox(only[1])
    if label != _STORE:
        raise _Malformed("the manifest store has another name")
    for _, manifest in manifests:
        if f"{ASSERTION}\0".encode() in manifest:
            _check_manifest(manifest)


def _check_manifest(content: bytes) -> None:
    _, parts = _superbox(content)
    found = dict(_superbox(part) for _, part in parts)
    if {kind for kind, _ in parts} != {b"jumb"} or len(parts) != len(_PARTS) or found.keys() != _PARTS:
        raise _Malformed(f"a manifest has other parts than {', '.join(sorted(_PARTS))}")
    for _, assertion in found[_ASSERTIONS]:
        _superbox(assertion)
    signature = found[_SIGNATURE][0][1]
    if not _PADDED.fullmatch(signature[max(0, signature.rfind(b"\x63pad")) :]):
        raise _Malformed("the padding of a signature was changed")


def _inside(content: bytes) -> list[tuple[bytes, bytes]]:
    """The type and content of the boxes that fill `content`."""
    found, at = [], 0
    while at < len(content):
        if len(content) - at < 8:
            raise _Malformed("a box of the manifest has the wrong size")
        box = _box(content[at : at + 16], at, len(content))
        if box.stop > len(content):
            raise _Malformed("a box of the manifest has the wrong size")
        found.append((box.kind, content[box.start : box.stop]))
        at = box.stop
    return found


def _superbox(content: bytes) -> tuple[str, list[tuple[bytes, bytes]]]:
    """The label of a JUMBF superbox (ISO 19566-5), and the boxes in it, without its description."""
    (kind, about), *rest = _inside(content) or [(b"", b"")]
    flags, (label, ended, private) = about[16:17], about[17:].partition(b"\0")
    salted = flags == b"\x13"
    if kind != b"jumd" or not ended or flags not in (b"\x03", b"\x13") or salted != bool(private) or not rest:
        raise _Malformed("the description of a box of the manifest was changed")
    if private and [name for name, _ in _inside(private)] != [b"c2sh"]:
        raise _Malformed("the description of a box of the manifest was changed")
    return label.decode(errors="replace"), rest
