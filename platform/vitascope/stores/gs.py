"""Google Cloud Storage."""

import logging
import os
from typing import Any

import aiohttp

# Else gcsfs asks by gRPC what kind of bucket each is before it reads or writes, and if gRPC does not get
# through, each call waits a minute for that. The kinds it asks for append, and have no atomic put.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import gcsfs
from fsspec.asyn import sync_wrapper
from gcsfs.retry import HttpError, is_retriable

from vitascope.errors import Forbidden
from vitascope.stores import patience

logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # else it logs the traceback of every attempt


def connect() -> "Store":
    """The client, one for each process; credentials are Google's default ones."""
    waits = aiohttp.ClientTimeout(sock_connect=patience.CONNECT_S, sock_read=patience.STALL_S)
    return Store(use_listings_cache=False, requests_timeout=waits)


class Store(gcsfs.GCSFileSystem):
    """gcsfs, each request of which is repeated until it is answered or its time is up."""

    async def _request(self, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        """One request and its whole answer; gcsfs makes it up to 6 times, in half a minute, on its own."""

        async def attempt() -> Any:
            try:
                return await super(Store, self)._request(method, path, *args, **kwargs)
            except (HttpError, OSError) as error:  # gcsfs gives 403 as an OSError without a code
                if getattr(error, "code", None) in (401, 403) or str(error).startswith("Forbidden"):
                    raise Forbidden(f"Google's storage refuses {what}: {error}") from None
                raise

        what = f"{method} {self._format_path(path, args)}"
        return await patience.persist(attempt, what, is_retriable, n_sent=None)

    async def _create(self, path: str, data: bytes, writer: str) -> bool:
        """Commits `data` if nothing is there yet; whether this call, known by `writer`, did it.

        In one request whatever the size. If the answer to the request that won was lost, its repetition is
        told that something is there: the name of the writer, kept with the object, then tells whose.
        """
        try:
            metadata = {"writer": writer}
            await self._pipe_file(path, data, metadata=metadata, chunksize=len(data) + 1, mode="create")
        except FileExistsError:
            there = await self._info(path)
            return bool((there.get("metadata") or {}).get("writer") == writer)
        return True

    create = sync_wrapper(_create)
