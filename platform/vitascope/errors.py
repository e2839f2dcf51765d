"""Errors as the user sees them.

Errors of these classes are shown as one sentence; every other one is a bug and keeps its traceback. Contracts
between our own functions are plain ValueErrors.
"""

import errno
import re

from vitascope.wording import short

FAILED, MISTAKE, STOPPED, INCOMPLETE = 1, 2, 3, 4
"""Exit statuses of commands, next to 0 and signals.INTERRUPTED. INCOMPLETE: a stage has ended, and not all
of its requests are done."""


class _Sentence(Exception):
    """Keeps its text unchanged: Ray Data adds advice of its own to an error's arguments."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text

    def __str__(self) -> str:
        return self._text


class Mistake(_Sentence, ValueError):
    """The user has to change something, a setting or a file; running again unchanged cannot help.

    The text says what was received, what was expected and what to do.
    """


class Missing(Mistake, FileNotFoundError):
    """A file or folder that the user names, or that an earlier stage makes, does not exist."""


class Forbidden(Mistake, PermissionError):
    """A store, a service or the system denies what the settings ask for."""


class Failed(_Sentence, RuntimeError):
    """Something outside our code failed; the text says what, and running again may help."""


def in_a_line(error: BaseException) -> str:
    """An error's type and text, in one line of at most 500 characters; a Mistake speaks for itself."""
    text = " ".join(str(error).split())
    if not isinstance(error, Mistake | Failed):
        text = ": ".join(filter(None, (type(error).__name__, text)))
    return short(text, 499)  # and the ellipsis


_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this system allows",
    errno.EROFS: "the disk is read-only",
}
_OF_RUST = re.compile(r"\(os error (\d+)\)")  # in safetensors' errors, which are no OSErrors


def about_disk(error: BaseException) -> str | None:
    """The sentence about a disk that cannot be written; None if `error` is about something else."""
    of_rust = _OF_RUST.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(of_rust[1]) if of_rust else None
    if number not in _DISK:
        return None
    path = getattr(error, "filename", None)
    where = f" ({path})" if path else ""
    kept = "what is committed so far is kept; make room, then run this again to continue"
    return f"{_DISK[number]}{where}; {kept}"


def sentence(error: BaseException) -> str:
    """The text of an error, without the system's number."""
    if about := about_disk(error):
        return about
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror.lower()}; name another location, or change this one"
    return str(error)
