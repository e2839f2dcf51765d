"""A local OpenAI-compatible endpoint whose answers a test decides."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


@dataclass
class Reply:
    """What the endpoint answers with: raw bytes, or a document as JSON."""

    status: int = 200
    document: Any = None
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    drip_s: float = 0.0  # a byte so often
    hang_up: bool = False  # close the connection without a word


@dataclass
class Asked:
    """A request as the endpoint saw it."""

    at_s: float
    key: str | None
    body: dict[str, Any]

    @property
    def pictures(self) -> list[Image.Image]:
        uris = [part["image_url"]["url"] for part in self._content if part["type"] == "image_url"]
        assert all(uri.startswith("data:image/jpeg;base64,") for uri in uris)
        return [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]

    @property
    def prompt(self) -> str:
        (text,) = (part["text"] for part in self._content if part["type"] == "text")
        return text

    @property
    def grey(self) -> int:
        """The grey level of the first picture, to the nearest ten: it distinguishes clips. -1 without one."""
        if not self.pictures:
            return -1
        return round(self.pictures[0].convert("L").resize((1, 1)).getpixel((0, 0)), -1)  # type: ignore[arg-type]

    @property
    def _content(self) -> list[dict[str, Any]]:
        (message,) = self.body["messages"]
        return message["content"]


Decide = Callable[[Asked, int], Reply]
"""The reply to a request, given how often its clip and prompt were requested before."""


def says(text: Any, **choice: Any) -> Reply:
    """A chat completion with one choice."""
    message = {"role": "assistant", "content": text, "refusal": choice.pop("refusal", None)}
    ended = {"index": 0, "finish_reason": "stop", "message": message} | choice
    return Reply(
        document={"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [ended]}
    )


def fails(status: int, message: str = "no", code: str | None = None, **reply: Any) -> Reply:
    """An error in OpenAI's words."""
    return Reply(status, {"error": {"message": message, "type": "error", "code": code}}, **reply)


class Endpoint:
    """The server's address, and its requests."""

    def __init__(self, url: str, decide: Decide) -> None:
        self.url, self._decide = url, decide
        self.asked: list[Asked] = []
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()

    def reply(self, asked: Asked) -> Reply:
        with self._lock:
            before = sum((a.prompt, a.grey) == (asked.prompt, asked.grey) for a in self.asked)
            self.asked.append(asked)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        reply = self._decide(asked, before)
        time.sleep(reply.wait_s)
        with self._lock:
            self.in_flight -= 1
        return reply


@contextmanager
def serving(decide: Decide) -> Iterator[Endpoint]:
    """The endpoint, listening."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(Reply(404, {"error": {"message": "nothing here"}}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                return self._send(Reply(404, {"error": {"message": f"no {self.path}"}}))
            return self._send(endpoint.reply(Asked(time.monotonic(), self.headers["Authorization"], body)))

        def _send(self, reply: Reply) -> None:
            if reply.hang_up:
                self.close_connection = True
                return
            content = json.dumps(reply.document).encode() if reply.raw is None else reply.raw
            self.send_response(reply.status)
            for name, value in ({"Content-Type": "application/json"} | reply.headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            step = 1 if reply.drip_s else max(len(content), 1)
            try:
                for start in range(0, len(content), step):
                    self.wfile.write(content[start : start + step])
                    self.wfile.flush()
                    time.sleep(reply.drip_s)
            except OSError:
                self.close_connection = True  # the other side has given up

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", decide)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
