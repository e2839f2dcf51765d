"""How the bytes of a file are damaged."""

import random
from collections.abc import Callable


def cut(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * share)]


def flipped(content: bytes, n_bytes: int, seed: int) -> bytes:
    """Random bits of `n_bytes` random bytes turned over."""
    chance, hurt = random.Random(seed), bytearray(content)
    for _ in range(n_bytes):
        hurt[chance.randrange(len(hurt))] ^= 1 << chance.randrange(8)
    return bytes(hurt)


def headless(content: bytes) -> bytes:
    return content[min(len(content) // 4, 200) :]


def hole(content: bytes) -> bytes:
    """Its middle third zeros, as of a download that was never finished."""
    third = len(content) // 3
    return content[:third] + bytes(third) + content[2 * third :]


def doubled(content: bytes) -> bytes:
    return content + content


def written(content: bytes, marker: bytes, offset: int, value: bytes) -> bytes:
    """`value` written `offset` bytes after where the first `marker` begins, over what was there."""
    at = content.index(marker) + offset
    return content[:at] + value + content[at + len(value) :]


def _unnamed(content: bytes, marker: bytes) -> bytes:
    return written(content, marker, 0, bytes(255 - byte for byte in marker))


def _zeros(content: bytes, marker: bytes) -> bytes:
    return written(content, marker, len(marker), bytes(24))


def _ones(content: bytes, marker: bytes) -> bytes:
    return written(content, marker, len(marker), b"\xff" * 24)


def _gigantic(content: bytes, marker: bytes) -> bytes:
    """MPEG-4 says a box's size before its name, the others behind."""
    at = content.index(marker)
    return content[: max(at - 4, 0)] + b"\x7f\xff\xff\xff"[: min(at, 4)] + content[at:]


SURGERY: dict[str, Callable[..., bytes]] = {
    "unnamed": _unnamed,
    "zeros": _zeros,
    "ones": _ones,
    "gigantic": _gigantic,
}
"""What is done at a word of a format."""

_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """`content` after one to eight random changes, every other one near its beginning or its end."""
    hurt = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        at = _place(len(hurt), chance)
        n = int(2 ** chance.uniform(0, 10))
        match chance.randrange(8):
            case 0 | 1:
                hurt[at : at + 1] = chance.randbytes(1)
            case 2 | 3:
                number = chance.choice(_NUMBERS)
                hurt[at : at + 4] = number.to_bytes(4, chance.choice(("big", "little")))
            case 4:
                hurt[at : at + n] = chance.randbytes(n)
            case 5:
                del hurt[at : at + n]
            case 6:
                other = _place(len(hurt), chance)
                hurt[at:at] = hurt[other : other + n]
            case 7:
                hurt[at : at + n] = bytes(n)
    return bytes(hurt[: _place(len(hurt), chance)] if chance.random() < 0.1 else hurt)


def _place(n_bytes: int, chance: random.Random) -> int:
    edge = min(n_bytes, 1024)
    near = chance.choice((range(edge), range(n_bytes - edge, n_bytes), range(n_bytes), range(n_bytes)))
    return chance.choice(near) if near else 0
