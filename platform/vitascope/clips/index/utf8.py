"""Bytes to text: UTF-8, or what a byte order mark says.

Anything else is refused and never guessed at: a guess that is wrong is a caption that is wrong. The error
names the encoding that charset-normalizer takes it for.
"""

import codecs
import re

from charset_normalizer import from_bytes

_MARKS = {  # the longer first: UTF-32's little-endian mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_USUAL = ["cp1252", "gb18030", "shift_jis", "big5", "euc_kr", "cp1251"]
_UNMARKED = "UTF-16 without a byte order mark"
_LOOKED_AT = 1 << 14  # bytes around the first that is wrong
_FEW = 0.34  # of all bytes: so many accented letters has a text in a European language
_RUNS = re.compile(rb"[\x80-\xff]+")


class NotText(ValueError):
    """Bytes that are no text in an encoding that can be told; the text says what they look like."""


def decoded(content: bytes) -> str:
    """The text in UTF-8 bytes, or in those that begin with a byte order mark of UTF-8, UTF-16 or UTF-32.

    Raises:
        NotText: they are neither.
    """
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        looks = f"; it may be {_guess(content, error.start)}" if encoding == "utf-8" else ""
        name = encoding.removesuffix("-sig").upper()
        raise NotText(f"is not {name} text ({error.reason}, byte {error.start}{looks})") from None
    if encoding == "utf-8" and content.count(b"\0") > len(content) / 4:
        raise NotText(f"is not UTF-8 text (zero, byte {content.index(0)}; it may be {_UNMARKED})")
    return text


def _guess(content: bytes, wrong: int) -> str:
    """The encoding that bytes which are not UTF-8 look like."""
    if content.count(b"\0") > len(content) / 4:
        return _UNMARKED
    part = content[max(0, wrong - _LOOKED_AT // 2) : wrong + _LOOKED_AT // 2]
    runs = _RUNS.findall(part)
    if max(map(len, runs)) <= 2 and sum(map(len, runs)) < _FEW * len(part):
        return "cp1252"
    best = from_bytes(part, cp_isolation=_USUAL).best()
    return str(best.encoding) if best else "another encoding"
