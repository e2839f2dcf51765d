"""A proxy in front of a store, which fails a fraction of the requests."""

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

FAULTS = ("500", "503", "reset", "stall")
MOMENTS = ("before", "lost", "midway")
SPOILS = [(f, m) for f in FAULTS for m in MOMENTS if m != "midway" or f in ("reset", "stall")]
"""The ways and moments in which a request is spoilt."""

# What is answered: status and reason, and S3's document.
_ANSWERS = {
    "500": ("500 Internal Server Error", "<Error><Code>InternalError</Code></Error>"),
    "503": ("503 Slow Down", "<Error><Code>SlowDown</Code></Error>"),
    "403": ("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>"),
    "not deleted": ("200 OK", "<DeleteResult><Error><Code>InternalError</Code></Error></DeleteResult>"),
    "not to be deleted": ("200 OK", "<DeleteResult><Error><Code>AccessDenied</Code></Error></DeleteResult>"),
}


class FaultyProxy:
    """Passes HTTP requests on to `127.0.0.1:port`, each in a connection of its own, and spoils some.

    A spoilt request is answered 500 or 503, or its connection is reset, or nothing is sent on it for as long
    as the client waits. This happens before the store hears of the request, or when the store has done it and
    its answer is lost, or, for resets and stalls, midway in its answer.

    Attributes:
        share: fraction of the requests that are spoilt; may be changed at any time.
        faults: the ways in which they are, of `FAULTS` and those that `_ANSWERS` adds.
        moments: of `before`, `lost` and `midway`, those at which they are.
        next: faults as (verb, fault, moment) that the next such requests get, whatever the share.
        keys: the access keys that requests were signed with.
        seen: how often a (verb, fault) was met; the fault is "" if the request was forwarded.
    """

    def __init__(self, port: int, share: float = 0.0, seed: int = 0) -> None:
        self.upstream, self.share = port, share
        self.faults: tuple[str, ...] = FAULTS
        self.moments: tuple[str, ...] = MOMENTS
        self.next: list[tuple[str, str, str]] = []
        self.seen: Counter[tuple[str, str]] = Counter()
        self.keys: set[str] = set()
        self._draw = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["FaultyProxy"]:
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        try:
            self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(120)
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(120)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        return int(self._server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        self._server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either end has gone, or the test has
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = await _body(head, reader, writer)
        self.keys.update(key.decode() for key in re.findall(rb"Credential=([^/]+)/", head))
        fault, moment = self._choose(head.partition(b" ")[0].decode())
        if fault and moment == "before":
            await _spoil(fault, reader, writer)
            return
        answer = await self._ask(head, body)
        if fault and moment == "lost":
            await _spoil(fault, reader, writer)
            return
        writer.write(answer[: len(answer) // 2] if fault else answer)
        await writer.drain()
        if fault:
            await _spoil(fault, reader, writer)

    def _choose(self, verb: str) -> tuple[str, str]:
        planned = next((p for p in self.next if p[0] == verb), None)
        if planned:
            self.next.remove(planned)
            fault, moment = planned[1:]
        else:
            spoil = self._draw.random() < self.share
            fault = self._draw.choice(self.faults) if spoil else ""
            fits = [m for m in self.moments if m != "midway" or fault not in _ANSWERS]
            moment = self._draw.choice(fits)
        self.seen[verb, fault] += 1
        return fault, moment

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        """The store's whole answer, after which it closes the connection."""
        lines = [h for h in head.split(b"\r\n") if not h.lower().startswith((b"connection:", b"expect:"))]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            writer.write(b"\r\n".join([lines[0], b"Connection: close", *lines[1:]]) + body)
            return await reader.read()
        finally:
            writer.close()


async def _body(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if fields.get(b"expect", b"").strip() == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if b"transfer-encoding" in fields:
        raise OSError("a chunked request; stores' clients name the length")
    return await reader.readexactly(int(fields.get(b"content-length", 0)))


async def _spoil(fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if fault == "reset":
        linger = struct.pack("ii", 1, 0)  # closing sends a reset then, not an end
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    elif fault == "stall":
        await reader.read()  # until the client has had enough
    else:
        status, text = _ANSWERS[fault]
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n"
            f"Connection: close\r\n\r\n{text}".encode()
        )
        await writer.drain()
