"""Addresses that stand for a key, for a while."""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from urllib.parse import urlencode

from vitascope import storage

_VALID_S = 3600


@dataclass(frozen=True)
class Links:
    """Signs addresses of files, for browsers and clients that cannot send a key with them."""

    secret: bytes

    @classmethod
    def of(cls, root: str) -> "Links":
        """Signs with the service's secret, which the first replica makes."""
        place = storage.join(root, "links.json")
        storage.create(place, storage.json_bytes({"secret": secrets.token_hex(32)}))
        return cls(bytes.fromhex(storage.read_json(place)["secret"]))

    def signed(self, path: str, owner: str) -> str:
        """The path with what makes it valid for an hour."""
        until = int(time.time()) + _VALID_S
        query = {"owner": owner, "until": until, "signature": self._signature(path, owner, until)}
        return f"{path}?{urlencode(query)}"

    def owner(self, path: str, owner: str, until: int, signature: str) -> str | None:
        """Whose file the address stands for; None if it is forged or no longer valid."""
        right = hmac.compare_digest(signature.encode(), self._signature(path, owner, until).encode())
        return owner if right and time.time() < until else None

    def _signature(self, path: str, owner: str, until: int) -> str:
        return hmac.new(self.secret, f"{path}\n{owner}\n{until}".encode(), hashlib.sha256).hexdigest()
