"""Google Cloud Storage."""

import logging
import os
from collections.abc import Iterator
from typing import Any

import aiohttp

# Otherwise gcsfs asks by gRPC for each bucket's kind before it reads or writes, and if gRPC is blocked, each
# call waits a minute for that. The kinds it asks for append, and have no atomic put.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import gcsfs
from fsspec.asyn import sync_wrapper
from gcsfs.retry import HttpError, is_retriable

from vitascope.errors import Forbidden
from vitascope.stores import patience

logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # otherwise it logs the traceback of every attempt


def connect() -> "Store":
    """The client, one for each process; credentials are Google's default ones."""
    waits = aiohttp.ClientTimeout(sock_connect=patience.CONNECT_S, sock_read=patience.STALL_S)
    return Store(use_listings_cache=False, requests_timeout=waits)


class Store(gcsfs.GCSFileSystem):
    """gcsfs, with every request retried until it is answered or its time is up."""

    async def _request(self, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        """One request and its whole answer; gcsfs itself tries it up to 6 times within half a minute."""

        async def attempt() -> Any:
            try:
                return await super(Store, self)._request(method, path, *args, **kwargs)
            except (HttpError, OSError) as error:  # gcsfs raises 403 as an OSError without a code
                if getattr(error, "code", None) in (401, 403) or str(error).startswith("Forbidden"):
                    raise Forbidden(f"Google's storage refuses {what}: {error}") from None
                raise

        what = f"{method} {self._format_path(path, args)}"
        return await patience.persist(attempt, what, is_retriable, n_sent=None)

    def names(self, path: str) -> Iterator[str]:
        """The names of the objects right in a folder, a page in memory at a time."""
        bucket, key, _ = self.split_path(path)
        prefix = f"{key}/" if key else ""
        after: dict[str, str] = {}
        while True:
            page = self.call(
                "GET", "b/{}/o", bucket, prefix=prefix, delimiter="/", maxResults=1000, json_out=True, **after
            )
            yield from (item["name"][len(prefix) :] for item in page.get("items", ()))
            if not (token := page.get("nextPageToken")):
                return
            after = {"pageToken": token}

    async def _create(self, path: str, data: bytes, writer: str) -> bool:
        """Commits `data` if no object exists; returns whether this call, identified by `writer`, did it.

        One request, whatever the size. If the answer to the winning request was lost, its retry fails because
        the object exists: the writer's name, stored with the object, then shows whose it is.
        """
        try:
            metadata = {"writer": writer}
            await self._pipe_file(path, data, metadata=metadata, chunksize=len(data) + 1, mode="create")
        except FileExistsError:
            existing = await self._info(path)
            return bool((existing.get("metadata") or {}).get("writer") == writer)
        return True

    create = sync_wrapper(_create)
