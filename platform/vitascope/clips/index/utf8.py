"""Bytes to text: UTF-8, or the encoding of a byte order mark.

Anything else is refused, because a wrong guess is a wrong caption. The error names the encoding that
charset-normalizer detects.
"""

import codecs
import re

from charset_normalizer import from_bytes

_MARKS = {  # longer ones first: the little-endian mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_USUAL = ["cp1252", "gb18030", "shift_jis", "big5", "euc_kr", "cp1251"]
_UNMARKED = "UTF-16 without a byte order mark"
_LOOKED_AT = 1 << 14  # bytes around the first invalid one
_FEW = 0.34  # of all bytes: the most accented letters in a text in a European language
_RUNS = re.compile(rb"[\x80-\xff]+")


class NotText(ValueError):
    """Bytes in no supported encoding; the message names the likely one."""


def decoded(content: bytes) -> str:
    """The text of UTF-8 bytes, or of bytes that begin with a byte order mark of UTF-8, UTF-16 or UTF-32.

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
    """The likely encoding of bytes that are not UTF-8."""
    if content.count(b"\0") > len(content) / 4:
        return _UNMARKED
    part = content[max(0, wrong - _LOOKED_AT // 2) : wrong + _LOOKED_AT // 2]
    runs = _RUNS.findall(part)
    if max(map(len, runs)) <= 2 and sum(map(len, runs)) < _FEW * len(part):
        return "cp1252"
    best = from_bytes(part, cp_isolation=_USUAL).best()
    return str(best.encoding) if best else "another encoding"
