"""Knocks at every endpoint of a Ray node without its token. `python strangers.py`, on the head."""

import json
import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError, RpcError

HEAD, AGENT = 8265, 52365
ROUTE = re.compile(r'@(?:\w+\.)*(get|post|put|delete|patch)\(\s*"(/[^"]*)"')


def routes() -> list[tuple[int, str, str]]:
    """Port, method and path of all that Ray's dashboard and its agents serve, as their source declares it."""
    found = set()
    for file in (Path(ray.__file__).parent / "dashboard").rglob("*.py"):
        port = AGENT if file.stem.endswith("_agent") else HEAD
        for method, path in ROUTE.findall(file.read_text()):
            found.add((port, method.upper(), re.sub(r"\{[^}]*\}", "x", path)))
    return sorted(found)


def wait_for(*ports: int) -> None:
    """An agent listens only some time after its node is up."""
    deadline = time.monotonic() + 240
    for port in ports:
        while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
            time.sleep(0.5)


def answer(port: int, method: str, path: str, token: str | None) -> int:
    """The status that such a request gets."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def refused(address: str) -> str:
    """What becomes of a driver that joins."""
    try:
        ray.init(address=address, log_to_driver=False)
    except (AuthenticationError, RpcError, ConnectionError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "joined"


if __name__ == "__main__":
    wait_for(HEAD, AGENT)
    http = [[*route, answer(*route, None), answer(*route, "wrong")] for route in routes()]
    drivers = {address: refused(address) for address in ("127.0.0.1:6379", "ray://127.0.0.1:10001")}
    print(json.dumps({"http": http, "drivers": drivers}))
