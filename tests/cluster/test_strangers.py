"""Without the token nothing can be started or read, through any of Ray's endpoints."""

import json
from pathlib import Path

import pytest

from cluster.conftest import Head
from hosts.namespaces import needs_hosts

SCRIPT = str(Path(__file__).with_name("strangers.py"))

OPEN = {
    "/": "the page itself, which asks for the token",
    "/favicon.ico": "a picture",
    "/api/authentication_mode": "that a token is required",
    "/api/healthz": "probes of Kubernetes",
    "/api/gcs_healthz": "probes of Kubernetes",
    "/api/local_raylet_healthz": "probes of Kubernetes",
}
"""Endpoints that answer without a token, and what they reveal."""


@needs_hosts
@pytest.mark.nightly
def test_no_endpoint_serves_a_stranger(head: Head) -> None:
    told = json.loads(head.python(SCRIPT, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="/nowhere"))
    print("\n".join("{:>6} {:<6} {:<60} {} {}".format(*row) for row in told["http"]))
    assert len(told["http"]) > 60
    for port, method, path, *codes in told["http"]:
        if path not in OPEN:
            assert set(codes) <= {401, 403}, (port, method, path, codes)
    assert set(told["drivers"]) == {"127.0.0.1:6379", "ray://127.0.0.1:10001"}
    assert "joined" not in told["drivers"].values()


@needs_hosts
def test_the_token_is_its_owners_alone(head: Head) -> None:
    tokens = [path for path in head.folder.rglob("*token*") if path.is_file()]
    assert tokens
    assert {path.stat().st_mode & 0o077 for path in tokens} == {0}
