"""A request through the app leaves one trace, at a collector that speaks OTLP."""

import gzip
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from vitascope import storage

TREE = {
    ("replica_handle_request Generate __call__", None),
    ("route_to_replica TextEncode __call__", "replica_handle_request Generate __call__"),
    ("replica_handle_request TextEncode __call__", "route_to_replica TextEncode __call__"),
    ("route_to_replica Denoise __call__", "replica_handle_request Generate __call__"),
    ("replica_handle_request Denoise __call__", "route_to_replica Denoise __call__"),
    ("route_to_replica DecodeWrite write", "replica_handle_request Generate __call__"),
    ("replica_handle_request DecodeWrite write", "route_to_replica DecodeWrite write"),
}
"""The spans of a request for a video of text alone, each with the one that it belongs to."""

Span = tuple[str, str, str, str]
"""Trace, id, parent's id or nothing, name."""


@contextmanager
def collector() -> Iterator[tuple[str, list[Span]]]:
    """A server that takes spans as a collector does: its address, and the spans."""
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for s in (s for scope in resource.scope_spans for s in scope.spans):
                    spans.append((s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex(), s.name))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        server.server_close()


def trees(spans: list[Span]) -> list[set[tuple[str, str | None]]]:
    """For each trace the names of its spans with the names of their parents."""
    names = {span: name for _, span, _, name in spans}
    found = defaultdict(set)
    for trace, _, parent, name in spans:
        found[trace].add((name, names.get(parent, "one that was lost") if parent else None))
    return list(found.values())


def test_each_request_is_one_trace(model_folder: Path, tmp_path: Path) -> None:
    """In a process of its own: Serve takes up tracing when it starts."""
    wanted = {"prompt": "a cat", "width": 64, "height": 48, "seconds": 1, "steps": 2}
    storage.put(
        f"{tmp_path}/r.jsonl",
        storage.json_lines(wanted | {"custom_id": name, "steps": 2 + 8 * (name == "d")} for name in "abcd"),
    )
    settings = [f"run.folder={tmp_path}", f"generate.model={model_folder}", "generate.traces=otlp"]
    settings += [f"generate.requests={tmp_path}/r.jsonl"]
    with collector() as (endpoint, spans):
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        subprocess.run(
            [sys.executable, "-m", "vitascope.cli", "generate", *(f"--set={s}" for s in settings)],
            env=environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
            check=True,
            timeout=300,
        )
    assert TREE in trees(spans)  # the last ones may be lost with their replicas
