"""Who may ask, and for how much."""

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from cachetools import TTLCache
from pydantic import Field

from vitascope import storage
from vitascope.api.failures import Refused
from vitascope.api.store.objects import ADMIN
from vitascope.api.store.records import Kept
from vitascope.errors import Mistake

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_SECRET_BYTES = 32
_REMEMBERED_S = 3.0  # how long a revoked key may still be let in


class Allowance(Kept):
    """What a key may ask for; None is as much as the settings allow."""

    requests_per_minute: int | None = Field(None, ge=1)
    in_flight: int | None = Field(None, ge=1)
    max_pixels: int | None = Field(None, ge=256)
    max_frames: int | None = Field(None, ge=1)


class Key(Allowance):
    """A key: its name, which owns what is asked for with it, and the SHA-256 of its secret."""

    name: str
    digest: str
    created_at: int
    revoked_at: int | None = None

    def __str__(self) -> str:
        about = {name: value for name in Allowance.model_fields if (value := getattr(self, name)) is not None}
        about["since"] = _day(self.created_at)
        if self.revoked_at:
            about["revoked"] = _day(self.revoked_at)
        return f"{self.name}: " + ", ".join(f"{name} {value}" for name, value in about.items())


_ADMIN = Key(name=ADMIN, digest="", created_at=0)


@dataclass(frozen=True)
class Keys:
    """The keys of a service, in the store."""

    root: str

    def add(self, name: str, allowance: Allowance) -> str:
        """Makes a key and returns it; only its hash is kept. A revoked name may be used again.

        Raises:
            Mistake: the name is taken, or cannot be one.
        """
        if not _NAME.fullmatch(name) or name == ADMIN:
            raise Mistake(
                f"a key's name has up to 63 letters, digits and hyphens, and is not {ADMIN!r}; got {name!r}"
            )
        secret = secrets.token_hex(_SECRET_BYTES)
        key = Key(name=name, digest=_digest(secret), created_at=int(time.time()), **allowance.model_dump())
        known = self.get(name)
        if known and known.revoked_at:
            self._put(key)
        elif not storage.create(self._place(name), key.model_dump_json().encode()):
            raise Mistake(f"there is a key named {name!r}; choose another name, or revoke that key first")
        return f"vsk_{name}_{secret}"

    def revoke(self, name: str) -> Key:
        """Makes a key useless; what was asked for with it stays.

        Raises:
            Mistake: no key has this name.
        """
        key = self.get(name) if _NAME.fullmatch(name) else None
        if key is None:
            raise Mistake(f"no key is named {name!r}; `vitascope keys list` names them")
        revoked = key.model_copy(update={"revoked_at": key.revoked_at or int(time.time())})
        self._put(revoked)
        return revoked

    def all(self) -> list[Key]:
        """Every key, also revoked ones, by name."""
        files = storage.level(storage.join(self.root, "keys")).files
        return [Key.model_validate_json(storage.read_bytes(file.uri)) for file in files]

    def get(self, name: str) -> Key | None:
        """The key of this name."""
        try:
            return Key.model_validate_json(storage.read_bytes(self._place(name)))
        except FileNotFoundError:
            return None

    def of_owner(self, owner: str) -> Key | None:
        """The key whose name an owner has; the admin's, too."""
        return _ADMIN if owner == ADMIN else self.get(owner)

    def _put(self, key: Key) -> None:
        storage.put(self._place(key.name), key.model_dump_json().encode())

    def _place(self, name: str) -> str:
        return storage.join(self.root, "keys", f"{name}.json")


@dataclass(frozen=True)
class Door:
    """Lets holders of a key in; the cluster's token is the admin's key."""

    keys: Keys
    admin_token: str | None
    _known: TTLCache = field(default_factory=lambda: TTLCache(10_000, _REMEMBERED_S))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def who(self, header: str) -> Key:
        """The key in an Authorization header.

        Raises:
            Refused: 401, whatever is wrong with it.
        """
        given = header.removeprefix("Bearer ").strip()
        if self.admin_token and hmac.compare_digest(given.encode(), self.admin_token.encode()):
            return _ADMIN
        _, _, rest = given.partition("vsk_")
        name, _, secret = rest.rpartition("_")
        key = self._named(name) if _NAME.fullmatch(name) else None
        expected = key.digest if key else _digest("")
        is_right = hmac.compare_digest(_digest(secret), expected)
        if key is None or not is_right or key.revoked_at:
            raise Refused(
                401,
                "a valid key is required: Authorization: Bearer …; `vitascope keys add` makes one",
                code="invalid_api_key",
            )
        return key

    def _named(self, name: str) -> Key | None:
        with self._lock:
            if name in self._known:
                known: Key | None = self._known[name]
                return known
        found = self.keys.get(name)
        with self._lock:
            self._known[name] = found
        return found


class Pace:
    """Counts the requests of each key within the last minute."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}

    def admits(self, name: str, per_minute: int) -> bool:
        """Whether another request is within the limit; it is counted if so."""
        now, times = time.monotonic(), self._times.setdefault(name, deque())
        while times and times[0] <= now - 60:
            times.popleft()
        if len(times) >= per_minute:
            return False
        times.append(now)
        return True


def _day(time_s: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time_s))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
