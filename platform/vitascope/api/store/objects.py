"""Documents in the store: named by time, kept per owner."""

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar

from pydantic import BaseModel

from vitascope import storage
from vitascope.api.failures import invalid, missing
from vitascope.api.store.records import Kept, Kind, Object
from vitascope.config import Settings
from vitascope.section import shown

ADMIN = "admin"
"""The owner of what is asked for with the cluster's token, which sees the objects of all."""
_SPAN_DIGITS = 6  # of the 12 that count milliseconds: 2^24 ms


_ID = re.compile(rf"(?P<kind>{'|'.join(Kind)})_(?P<ms>[0-9a-f]{{12}})[0-9a-f]{{20}}")
READERS = ThreadPoolExecutor(16, "read")
"""Reads for one answer at the same time: a store answers slowly, and many at once."""
_Kept = TypeVar("_Kept", bound=Kept)


def new_id(kind: Kind) -> str:
    """An id that nobody can guess and that sorts by time."""
    return f"{kind}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def kind_of(text: str) -> Kind | None:
    """The kind of object that an id names; None if it is no id."""
    found = _ID.fullmatch(text)
    return Kind(found["kind"]) if found else None


def derived_id(kind: Kind, of: str, *parts: object) -> str:
    """An id of the time of another one, the same whenever it is derived."""
    digest = hashlib.blake2b("\x1f".join(map(str, (of, *parts))).encode(), digest_size=10).hexdigest()
    return f"{kind}_{_digits(of)}{digest}"


def several(first: str, n: int) -> list[str]:
    """`n` ids, of which `first` is one, if `n` is 1."""
    return [f"{first[:-2]}{i:02x}" for i in range(n)] if n > 1 else [first]


def created_at(of: str) -> int:
    """When the object with this id was made, in seconds of Unix time."""
    return int(_digits(of), 16) // 1000


def _digits(of: str) -> str:
    return of.partition("_")[2][:12]


def _span(of: str) -> str:
    return _digits(of)[:_SPAN_DIGITS]


@dataclass(frozen=True)
class Asked:
    """A page: at most `limit` objects beyond the id `after`."""

    limit: int
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


def _all(_: object) -> bool:
    return True


@dataclass(frozen=True)
class Objects:
    """The objects below the folder `root`, local or in a bucket."""

    root: str

    @classmethod
    def of(cls, settings: Settings) -> "Objects":
        """Those of the service that the settings describe."""
        return cls(settings.path("outputs", settings.generate.batch))

    def owners(self) -> list[str]:
        """All that have objects."""
        folders = storage.level(storage.join(self.root, "objects")).folders
        return sorted(folder.rstrip("/").rpartition("/")[2] for folder in folders)

    def folder(self, owner: str) -> str:
        """The folder of all that an owner has."""
        return storage.join(self.root, "objects", owner)

    def visible(self, owner: str) -> str:
        """The folder of all that an owner may see."""
        return storage.join(self.root, "objects") if owner == ADMIN else self.folder(owner)

    def media(self, owner: str, of: str) -> str:
        """The folder of an object's files."""
        return storage.join(self.folder(owner), "media", _span(of), of)

    def add(self, record: Object) -> bool:
        """Commits a new object; False if it exists."""
        return storage.create(self._record(record.owner, record.id), _bytes(record))

    def find(self, owner: str, of: str, kind: Kind, form: type[_Kept]) -> _Kept:
        """The object with this id, if it is the owner's; the admin finds everybody's.

        Raises:
            Refused: 404, also if the id is none.
        """
        if kind_of(of) is kind:
            first = [owner, *(self.owners() if owner == ADMIN else [])]
            for one in dict.fromkeys(first):
                if found := _read(self._record(one, of), form):
                    return found
        raise missing(kind, of)

    def get(self, owner: str, of: str, form: type[_Kept]) -> _Kept | None:
        """The object with this id; None if it was deleted, or never made."""
        return _read(self._record(owner, of), form)

    def exists(self, owner: str, of: str) -> bool:
        """Whether the object was made, and not deleted."""
        return storage.exists(self._record(owner, of))

    def forget(self, owner: str, of: str) -> None:
        """Removes the object; what it leaves is removed by `clean`."""
        storage.delete(self._record(owner, of))

    def clean(self, owner: str, of: str) -> None:
        """Removes what a deleted object leaves, and at last that it is pending."""
        storage.delete(self.media(owner, of))
        storage.delete(self._outcome(owner, of))
        self.settle(owner, of)

    def end(self, owner: str, of: str, outcome: Kept) -> None:
        """Commits how an object ended; it is pending no longer."""
        storage.put(self._outcome(owner, of), _bytes(outcome))
        self.settle(owner, of)

    def outcome(self, owner: str, of: str, form: type[_Kept]) -> _Kept | None:
        """How it ended; None if it has not."""
        return _read(self._outcome(owner, of), form)

    def has_ended(self, owner: str, of: str) -> bool:
        """Whether it has an outcome."""
        return storage.exists(self._outcome(owner, of))

    def note(self, owner: str, of: str, progress: Kept) -> None:
        """Commits that an object is pending, and how far it is."""
        storage.put(self._pending(owner, of), _bytes(progress))

    def pending(self, owner: str, of: str, form: type[_Kept]) -> _Kept | None:
        """How far a pending object is; None if it is not pending."""
        return _read(self._pending(owner, of), form)

    def settle(self, owner: str, of: str) -> None:
        """The object is pending no longer."""
        storage.delete(self._pending(owner, of))

    def all_pending(self, owner: str | None = None) -> list[tuple[str, str]]:
        """Owner and id of everything that is pending, of one owner or of all, oldest first of each."""
        root = storage.join(self.root, "pending")
        folders = [storage.join(root, owner)] if owner else storage.level(root).folders
        found = []
        for folder in folders:
            whose = folder.rstrip("/").rpartition("/")[2]
            found += [(whose, name) for name in _names(folder)]
        return sorted(found, key=lambda each: (_digits(each[1]), each))

    def page(
        self, owner: str, kind: Kind, form: type[_Kept], asked: Asked, *, keep: Callable[[_Kept], bool] = _all
    ) -> tuple[list[_Kept], bool]:
        """The objects that are asked for, and whether more follow. Reads no more than it returns, and one.

        Raises:
            Refused: 400 if `after` is no id.
        """
        if asked.after is not None and kind_of(asked.after) is not kind:
            raise invalid(f"after is the id of a {kind}, got {shown(asked.after)}", "after")
        owners = self.owners() if owner == ADMIN else [owner]
        found: list[_Kept] = []
        names = self._ordered(owners, kind, asked.after, asked.order)
        while len(found) <= asked.limit and (some := list(islice(names, asked.limit + 1 - len(found)))):
            read = READERS.map(lambda each: self.get(each[0], each[1], form), some)
            found += [one for one in read if one is not None and keep(one)]
        return found[: asked.limit], len(found) > asked.limit

    def _ordered(
        self, owners: Sequence[str], kind: Kind, after: str | None, order: str
    ) -> Iterator[tuple[str, str]]:
        """Reads the names of one span after another, and no object."""
        falling = order == "desc"
        spans: dict[str, list[tuple[str, str]]] = {}
        for owner in owners:
            for folder in storage.level(storage.join(self.folder(owner), f"{kind}s")).folders:
                spans.setdefault(folder.rstrip("/").rpartition("/")[2], []).append((owner, folder))
        for span in sorted(spans, reverse=falling):
            if after and (span > _span(after) if falling else span < _span(after)):
                continue
            inside = sorted(
                ((name, owner) for owner, f in spans[span] for name in _names(f)), reverse=falling
            )
            for name, owner in inside:
                if not after or (name < after if falling else name > after):
                    yield owner, name

    def _record(self, owner: str, of: str) -> str:
        kind = kind_of(of)
        return storage.join(self.folder(owner), f"{kind}s", _span(of), f"{of}.json")

    def _outcome(self, owner: str, of: str) -> str:
        return storage.join(self.folder(owner), "outcomes", _span(of), f"{of}.json")

    def _pending(self, owner: str, of: str) -> str:
        return storage.join(self.root, "pending", owner, f"{of}.json")


def _names(folder: str) -> list[str]:
    """The ids that files in a folder are named after."""
    names = (file.uri.rpartition("/")[2].removesuffix(".json") for file in storage.level(folder).files)
    return [name for name in names if kind_of(name)]


def _bytes(document: BaseModel) -> bytes:
    return document.model_dump_json().encode()


def _read(uri: str, form: type[_Kept]) -> _Kept | None:
    try:
        return form.model_validate_json(storage.read_bytes(uri))
    except FileNotFoundError:
        return None
