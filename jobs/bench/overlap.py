"""Whether decoding, encoding and uploading hide behind denoising, with uploads that are slow.

    python jobs/bench/overlap.py [--requests 48] [--in-flight 24] [--delay-s 1.0] [--steps 100]

The app runs on a local Ray with a tiny model. Outputs go to an S3 server here (moto, in .venv-moto)
through a proxy that answers each upload of a video late, by --delay-s: the time is spent as on a network,
without a processor. The same requests run with and without the delay, in turn, after a few that warm up.

    end_to_end_over_slowest   seconds from the first request to the last answer, over the seconds in which the
                              slowest stage had at least one request
    delayed_over_undelayed    seconds of the batch with slow uploads over those with fast ones
    serial_over_end_to_end    the sum of all stages' work, as if one followed the other, over the seconds

Stages share the processors: those of decoding and encoding are not free, and are part of both batches. The
last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from aiohttp import ClientSession, web

REPO = Path(__file__).resolve().parents[2]
MOTO = REPO / ".venv-moto" / "bin" / "moto_server"
STAGES = ("text", "denoise", "decode", "encode", "upload")


class SlowUploads:
    """A proxy that forwards everything to `server`, uploads of videos `delay_s` later."""

    def __init__(self, server: str) -> None:
        self.server, self.delay_s, self.port = server, 0.0, _free_port()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()

    async def _serve(self) -> None:
        self._session = ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._forward)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        await asyncio.Event().wait()

    async def _forward(self, request: web.Request) -> web.Response:
        if request.method == "PUT" and request.path.endswith(".mp4"):
            await asyncio.sleep(self.delay_s)
        how = {"headers": request.headers, "data": await request.read(), "allow_redirects": False}
        async with self._session.request(request.method, self.server + request.raw_path, **how) as answer:
            kept = {
                k: v for k, v in answer.headers.items() if k.lower() not in ("transfer-encoding", "server")
            }
            if request.method == "HEAD":
                return web.Response(status=answer.status, headers=kept)
            return web.Response(status=answer.status, headers=kept, body=await answer.read())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def slow_store() -> Iterator[SlowUploads]:
    """The S3 server behind its proxy, in this process's environment and that of Ray's processes."""
    port = _free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([str(MOTO), "-H", "127.0.0.1", "-p", str(port)], **quiet)
    try:
        uploads = SlowUploads(f"http://127.0.0.1:{port}")
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{uploads.port}"
        os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "testing"
        os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
        for one in (port, uploads.port):
            _wait_for(one)
        yield uploads
    finally:
        server.kill()


def _wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


def intervals(sidecar: dict[str, Any], began: float) -> dict[str, tuple[float, float]]:
    """When each stage worked on a request that was sent at `began`; encoding takes turns with decoding.

    Signing counts as encoding.
    """
    waited, worked = sidecar["waited"], sidecar["seconds"]
    spans, now = {}, began
    for stage in ("text", "denoise"):
        spans[stage] = (now + waited[stage], now + waited[stage] + worked[stage])
        now = spans[stage][1]
    start = now + waited["decode"]
    end = start + worked["decode"] + worked["encode"] + worked["sign"]
    spans["decode"] = spans["encode"] = (start, end)
    return spans | {"upload": (end + waited["upload"], end + waited["upload"] + worked["upload"])}


def covered(spans: list[tuple[float, float]]) -> float:
    """Seconds in at least one of the spans."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


async def batch(send: Any, lines: list[str], in_flight: int) -> dict[str, float]:
    """Sends all requests, a limited number at a time, and measures the stages."""
    slots, spans = asyncio.Semaphore(in_flight), {stage: list[tuple[float, float]]() for stage in STAGES}
    work = dict.fromkeys(STAGES, 0.0)

    async def one(line: str) -> None:
        async with slots:
            began = time.monotonic()
            sidecar = await send(line)
            for stage, span in intervals(sidecar, began).items():
                spans[stage].append(span)
                work[stage] += sidecar["seconds"][stage]

    began = time.monotonic()
    await asyncio.gather(*map(one, lines))
    busy = {stage: covered(of) for stage, of in spans.items()}
    measured = {
        "seconds": time.monotonic() - began,
        "work": sum(work.values()),
        "slowest": max(busy.values()),
    }
    return measured | {f"{stage}_work": seconds for stage, seconds in work.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how far the app's stages overlap.")
    for name, default in (("requests", 48), ("in-flight", 24), ("steps", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--delay-s", type=float, default=1.0)
    args = parser.parse_args()
    with slow_store() as uploads, tempfile.TemporaryDirectory() as folder:
        measured = _measured(args, uploads, folder)
    delayed, fast = measured
    print(
        json.dumps(
            {
                "end_to_end_over_slowest": round(delayed["seconds"] / delayed["slowest"], 3),
                "delayed_over_undelayed": round(delayed["seconds"] / fast["seconds"], 3),
                "serial_over_end_to_end": round(delayed["work"] / delayed["seconds"], 3),
                "requests": args.requests,
                "delay_s": args.delay_s,
                "delayed": {key: round(value, 2) for key, value in delayed.items()},
                "undelayed": {key: round(value, 2) for key, value in fast.items()},
            }
        )
    )


def _measured(args: argparse.Namespace, uploads: SlowUploads, folder: str) -> list[dict[str, float]]:
    """The batch with slow uploads, and with fast ones."""
    import fsspec  # after the environment is set

    from vitascope import config
    from vitascope.cluster.local import connect
    from vitascope.encode.codecs import make_codec
    from vitascope.encode.settings import EncodeSettings
    from vitascope.encode.text import make_text_encoder
    from vitascope.generate.app import serving
    from vitascope.generate.app.build import build
    from vitascope.generate.models import open_models
    from vitascope.generate.parse import parse
    from vitascope.generate.tracing import tracing
    from vitascope.model.formats.card import ModelCard, save_model
    from vitascope.model.settings import ModelSettings

    fsspec.filesystem("s3").mkdir("outputs")
    encode = EncodeSettings(dct_channels=12)
    card = ModelCard(
        model=ModelSettings(depth=4, width=128, heads=4, patch=2),
        encode=encode,
        channels=make_codec(encode).channels,
        text_dim=make_text_encoder(encode).dim,
        fingerprint="overlap",
        step=0,
    )
    torch.manual_seed(0)
    weights = {name: torch.randn_like(weight) * 0.1 for name, weight in card.build().state_dict().items()}
    save_model(f"{folder}/model", weights, card)
    settings = config.load(None, [f"run.folder={folder}", "generate.denoise_cpus=1", "cluster.local_cpus=8"])
    connect(settings.cluster)
    models = open_models(settings)
    limits = models.limits("/")

    def lines(name: str, n: int) -> list[str]:
        fields = {"prompt": "a cat", "width": 128, "height": 96, "seconds": 17 / 8, "steps": args.steps}
        return [json.dumps(fields | {"custom_id": f"{name}-{i}"}) for i in range(n)]

    with serving.serving(build(models, settings), "overlap", "overlap", tracing(settings.generate)) as handle:

        async def send(line: str) -> dict[str, Any]:
            request = parse(line, limits)
            answer = await handle.remote(request, models.target("s3://outputs", request))
            assert isinstance(answer, dict), answer
            return answer

        async def run() -> list[dict[str, float]]:
            await batch(send, lines("warm", 4), args.in_flight)
            uploads.delay_s = args.delay_s
            delayed = await batch(send, lines("delayed", args.requests), args.in_flight)
            uploads.delay_s = 0.0
            return [delayed, await batch(send, lines("fast", args.requests), args.in_flight)]

        return asyncio.run(run())


if __name__ == "__main__":
    main()
