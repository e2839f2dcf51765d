"""The generation app: three deployments and an ingress."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.schema import LoggingConfig, TracingConfig

from vitascope import storage
from vitascope.cluster.placement import node_labels
from vitascope.config import Settings
from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import make_text_encoder
from vitascope.generate import conditions, media, sampler, writer
from vitascope.generate.conditions import Canvas
from vitascope.generate.engine import Denoiser
from vitascope.generate.request import MEDIA, Request
from vitascope.generate.settings import GenerateSettings
from vitascope.ledger import Rejected
from vitascope.model.card import ModelCard, load_model
from vitascope.observe.metrics import Publisher

# A video takes minutes; Ray Serve's default of 20 s would kill those in flight when a replica is to go.
_GRACEFUL_SHUTDOWN_S = 900.0
_GRACEFUL_SHUTDOWN_LOOK_S = 0.2  # and idle ones need not wait the default's 2 s
# A busy CPU may answer late; Ray Serve's default of 30 s would restart a replica that is only working.
_HEALTH_TIMEOUT_S = 120.0
_GROW_AFTER_S = 5.0
_TEXT_CPUS, _DECODE_CPUS, _INGRESS_CPUS = 0.5, 1.0, 0.1
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)


@dataclass(frozen=True)
class Target:
    """Where an output goes, without suffix, and what makes it (for the sidecar)."""

    location: str
    model: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Denoised:
    """A latent (T, h, w, C) float32, and the seconds it took with the time it waited."""

    latent: np.ndarray
    seconds: float


class TextEncode:
    """Prompts to token states."""

    def __init__(self, settings: EncodeSettings) -> None:
        self._encoder = make_text_encoder(settings)

    def __call__(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """The states (m, text_dim) of prompt and negative prompt."""
        prompt, negative = self._encoder.encode([request.prompt, request.negative_prompt])
        return prompt.numpy(), negative.numpy()


class Denoise:
    """Noise to latents; all requests of a replica share its passes."""

    def __init__(self, folder: str, settings: GenerateSettings, run: str) -> None:
        self._device = "cuda" if settings.use_gpu else "cpu"
        model, self._card = load_model(folder, self._device)
        self._denoiser = Denoiser(
            model, token_budget=settings.token_budget, device=self._device, publisher=Publisher(run)
        )

    async def __call__(
        self,
        request: Request,
        text: tuple[np.ndarray, np.ndarray],
        canvas: tuple[np.ndarray, np.ndarray] | None,
    ) -> Denoised:
        """The finished latent. Waits without holding a thread, so that any number of requests may be here."""
        started = time.monotonic()
        work = await asyncio.to_thread(self._begin, request, text, canvas)
        done = await asyncio.wrap_future(self._denoiser.submit(work))
        return Denoised(done.latent(self._card.model.patch).cpu().numpy(), time.monotonic() - started)

    def _begin(self, request: Request, text: Any, canvas: Any) -> sampler.Work:
        if canvas is None:
            start = conditions.blank(request, self._card.model.patch, self._card.channels)
        else:
            start = Canvas(*(torch.tensor(part) for part in canvas))
        states = (torch.tensor(text[0]), torch.tensor(text[1]))
        return sampler.begin(request, start, states, card=self._card, device=self._device)


class DecodeWrite:
    """Media to given latent frames, and latents to committed files: what needs the codec."""

    def __init__(self, card: ModelCard) -> None:
        self._codec = make_codec(card.encode)
        self._patch = card.model.patch

    def canvas(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """The request's given latent frames: latent (T, h, w, C), given (T,)."""
        canvas = conditions.canvas(*media.read_given(request, self._patch), self._codec)
        return canvas.latent.numpy(), canvas.given.numpy()

    def write(self, request: Request, denoised: Denoised, target: Target) -> dict[str, Any]:
        """Decodes and commits the output, then creates the sidecar and returns it.

        The sidecar makes the request finished. Of attempts that race, one creates it, and all return that
        one's.
        """
        started = time.monotonic()
        frames = self._codec.decode(torch.tensor(denoised.latent)).numpy()
        decoded = time.monotonic()
        content, suffix = writer.media_bytes(conditions.crop(frames, request), request.fps)
        storage.put(target.location + suffix, content)
        timings = {
            "denoise": round(denoised.seconds, 3),
            "decode": round(decoded - started, 3),
            "write": round(time.monotonic() - decoded, 3),
        }
        document = writer.sidecar(request, target.location + suffix, target.model, timings)
        if storage.create(target.location + ".json", storage.json_bytes(document)):
            return document
        return storage.read_json(target.location + ".json")


class Generate:
    """The ingress: sends one request through the others."""

    def __init__(self, text: Any, denoise: Any, codec: Any) -> None:
        self._text, self._denoise, self._codec = text, denoise, codec

    async def __call__(self, request: Request, target: Target) -> dict[str, Any] | Rejected:
        """The sidecar of the committed output, or why there is none. Arrays pass from replica to replica."""
        text = self._text.remote(request)
        canvas = self._codec.canvas.remote(request) if MEDIA[request.mode] else None
        try:
            return await self._codec.write.remote(
                request, self._denoise.remote(request, text, canvas), target
            )
        except RayTaskError as error:
            if isinstance(error.cause, Rejected):
                return error.cause
            raise


def build(folder: str, card: ModelCard, settings: Settings) -> serve.Application:
    """The app that generates with the model in `folder`.

    Each deployment grows with what it has to do, up to its number of replicas, and goes to none when idle,
    so that an app whose job was killed does not hold its nodes.
    """
    own, ongoing = settings.generate, settings.generate.max_in_flight
    text = deployed(TextEncode, own.text_replicas, settings, cpus=_TEXT_CPUS).bind(card.encode)
    codec = deployed(DecodeWrite, own.decode_replicas, settings, cpus=_DECODE_CPUS).bind(card)
    gpu = {"cpus": own.denoise_cpus, "gpus": int(own.use_gpu)}
    denoise = deployed(Denoise, own.denoise_replicas, settings, ongoing=ongoing, **gpu)
    generate = deployed(Generate, 1, settings, cpus=_INGRESS_CPUS, ongoing=ongoing)
    return generate.bind(text, denoise.bind(folder, own, settings.run.folder), codec)


def cpus_needed(settings: GenerateSettings) -> float:
    """CPUs that all replicas of the app take."""
    return (
        settings.text_replicas * _TEXT_CPUS
        + settings.decode_replicas * _DECODE_CPUS
        + settings.denoise_replicas * settings.denoise_cpus
        + _INGRESS_CPUS
    )


@contextmanager
def serving(app: serve.Application, batch: str, name: str, trace: TracingConfig) -> Iterator[Any]:
    """Runs `app` without HTTP and gives its handle; one of that name that a killed job left is taken over.

    Other apps whose names begin with `batch` are removed first: they would hold what this one needs. The app
    goes at the end, at once if the work was broken off.
    """
    logging.getLogger("ray.serve").addFilter(_worth_reading)
    serve.start(proxy_location="Disabled", logging_config=_QUIET, tracing_config=trace)
    running = serve.status().applications
    for other in running:
        if other.startswith(batch) and other != name:
            serve.delete(other)
    status = running.get(name)
    try:
        if status and status.status == "RUNNING":
            handle = serve.get_app_handle(name)
        else:
            handle = serve.run(app, name=name, route_prefix=None, logging_config=_QUIET)
        yield handle
        handle.shutdown()  # else it goes on telling Serve how many requests wait
    except BaseException:
        serve.delete(name, _blocking=False)
        raise
    serve.delete(name)


def _worth_reading(record: logging.LogRecord) -> bool:
    """Not that a replica on a busy CPU took a moment to say how much it has to do; it is asked again."""
    return "Failed to get queue length" not in record.getMessage()


def deployed(
    cls: type, most: int, settings: Settings, *, cpus: float, gpus: int = 0, ongoing: int = 1
) -> Any:
    """A deployment of up to `most` replicas on the nodes that generate.

    `ongoing`: requests a replica takes at once; the others wait for any replica to be free.
    """
    options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus}
    idle_s, labels = settings.generate.idle_s, node_labels(settings, "generate")
    return serve.deployment(
        autoscaling_config={
            "min_replicas": 0,
            "initial_replicas": 1,
            "max_replicas": most,
            "target_ongoing_requests": max(1.0, ongoing / most),  # all of them work before any is full
            "upscale_delay_s": _GROW_AFTER_S,
            "downscale_delay_s": idle_s,
            "downscale_to_zero_delay_s": idle_s,
        },
        max_ongoing_requests=ongoing,
        graceful_shutdown_timeout_s=_GRACEFUL_SHUTDOWN_S,
        graceful_shutdown_wait_loop_s=_GRACEFUL_SHUTDOWN_LOOK_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        ray_actor_options=options | ({"label_selector": labels} if labels else {}),
    )(cls)
