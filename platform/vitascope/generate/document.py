"""The JSON object of a request, whatever the caller sent."""

import json
from collections import Counter
from typing import Any

from vitascope.generate.request import MAX_PROMPT_CHARS
from vitascope.ledger import Reason, Rejected
from vitascope.section import shown

MAX_LINE_BYTES = 2**20


def document_of(line: bytes | str | dict[str, object]) -> dict[str, object]:
    """The JSON object on a line, or a table's row. Raises Rejected if the line is anything else."""
    return _object_of(line, object_pairs_hook=_each_key_once)


def labels(line: bytes | str | dict[str, object]) -> dict[str, str]:
    """`custom_id` and `mode` of a refused line, if it has them, at most 512 characters of each."""
    try:
        document = _object_of(line)
    except Rejected:
        return {}
    given = {key: document.get(key) for key in ("custom_id", "mode")}
    return {key: value[:512] for key, value in given.items() if isinstance(value, str)}


def _object_of(line: bytes | str | dict[str, object], **how: Any) -> dict[str, object]:
    if isinstance(line, dict):
        return _of_text(line)
    if len(line) > MAX_LINE_BYTES:
        raise invalid(
            f"the line has more than {MAX_LINE_BYTES:,} bytes; shorten it (a prompt has at most "
            f"{MAX_PROMPT_CHARS:,} characters)"
        )
    try:
        text = line if isinstance(line, str) else line.decode()
        document = json.loads(text.removeprefix("\ufeff"), **how)
        json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no text either
    except UnicodeDecodeError as error:
        raise invalid(f"the line is not UTF-8 ({error}); save the request file as UTF-8") from None
    except Rejected:
        raise
    except (ValueError, RecursionError) as error:
        raise invalid(
            f"the line is not valid JSON ({_reason(error)}); write one JSON object a line"
        ) from None
    if not isinstance(document, dict):
        raise invalid(f"expected a JSON object, got {shown(document)}")
    return document


def _of_text(row: dict[str, object]) -> dict[str, object]:
    """The row. Raises Rejected if a text of it is none, because its bytes were not UTF-8."""
    for name, value in row.items():
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise invalid(f"{name} is not UTF-8; save the request file as UTF-8") from None
    return row


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise invalid(f"the key {shown(twice)} is given more than once; keep one")
    return document


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if "int_max_str_digits" in str(error):
        return "a number has thousands of digits"
    return str(error)


def invalid(detail: str) -> Rejected:
    """The refusal of a request that its caller can mend."""
    return Rejected(Reason.INVALID_REQUEST, detail)
