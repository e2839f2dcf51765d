"""What a batch is asked to do, and its report: two small files."""

import time
from dataclasses import asdict
from enum import StrEnum

from vitascope import storage
from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.generate.batch.progress import Progress, State


class Wish(StrEnum):
    """What the user asks of a batch. It holds until another is made, also for later runs."""

    RESUME = "resume"
    PAUSE = "pause"  # requests in flight end, and no other is sent
    CANCEL = "cancel"  # requests in flight are cancelled; all that are left get a row that says so


def ask(folder: str, wish: Wish) -> None:
    """Asks the batch whose outputs are in `folder`, whether a job is running or not."""
    storage.put_json(_wish_location(folder), {"wish": str(wish)})


def wished(folder: str) -> Wish:
    """The last wish; to go on, if there is none.

    Raises:
        Mistake: the file is not as `ask` writes it.
    """
    location = _wish_location(folder)
    try:
        return Wish(storage.read_json(location)["wish"])
    except FileNotFoundError:
        return Wish.RESUME
    except (ValueError, TypeError, KeyError):
        raise Mistake(f"{location} is not as it was written; delete it to let the batch go on") from None


def report(folder: str, progress: Progress) -> None:
    """Replaces the batch's report."""
    storage.put_json(_report_location(folder), asdict(progress))


def reported(folder: str) -> Progress | None:
    """The last report; None if no job has made one."""
    try:
        document = storage.read_json(_report_location(folder))
    except FileNotFoundError:
        return None
    return Progress(**document | {"state": State(document["state"])})


def status(folder: str) -> list[str]:
    """The last wish and the last report, as sentences."""
    wish, progress = wished(folder), reported(folder)
    found = progress.lines(time.time()) if progress else ["no job has worked on this batch yet"]
    follows = {Wish.PAUSE: State.PAUSED, Wish.CANCEL: State.CANCELLED}
    if wish in follows and (progress is None or progress.state not in (follows[wish], State.ENDED)):
        found.append(f"a {wish} was asked for")
    return found


def folder_of(settings: Settings) -> str:
    """The folder of a batch's outputs."""
    return settings.path("outputs", settings.generate.batch)


def _wish_location(folder: str) -> str:
    return storage.join(folder, ".batch", "wish.json")


def _report_location(folder: str) -> str:
    return storage.join(folder, ".batch", "progress.json")
