"""Reports to the user why a replica cannot start."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from vitascope.errors import in_a_line


class CannotStart(RuntimeError):
    """A replica's constructor failed; the text is one line."""


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Within this context an exception becomes a CannotStart: Serve forwards only the text of exceptions."""
    try:
        yield
    except Exception as error:
        raise CannotStart(f"{what} cannot start: {in_a_line(error)}") from error


_DIED = "the process of a replica died at its start, perhaps for lack of memory; Ray's logs say more"
_REASON = re.compile(rf"{CannotStart.__name__}: (.+)")


def reason(messages: Iterable[str]) -> str:
    """The reason in the messages of an app's deployments, which hold a traceback if a replica failed."""
    texts = [text.strip() for text in messages if text.strip()]
    for text in texts:
        if reasons := _REASON.findall(text):
            return str(reasons[-1])
        if "ActorDied" in text:
            return _DIED
    return "; ".join(text.splitlines()[-1] for text in texts) or "Ray Serve gives no reason"
