"""The generation app: three deployments and an ingress."""

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.schema import DeploymentStatus, LoggingConfig, TracingConfig

from vitascope import storage
from vitascope.cluster.placement import node_labels
from vitascope.config import Settings
from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import make_text_encoder
from vitascope.errors import Failed
from vitascope.generate import conditions, media
from vitascope.generate.changes import changes
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise import sampler
from vitascope.generate.denoise.divide import Broken
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.opened import Opened, Target
from vitascope.generate.request import MEDIA, Request
from vitascope.generate.settings import DECODE_CPUS, INGRESS_CPUS, TEXT_CPUS, GenerateSettings
from vitascope.generate.sidecar import Conditioning, conditioning, put_conditioning, sidecar
from vitascope.generate.starting import CannotStart, reason, starting
from vitascope.ledger import Rejected
from vitascope.media import mp4
from vitascope.metrics import Publisher
from vitascope.model.formats.card import ModelCard

# A video takes minutes; Ray Serve's default of 20 s would kill requests in flight when a replica is removed.
_GRACEFUL_SHUTDOWN_S = 900.0
_GRACEFUL_SHUTDOWN_LOOK_S = 0.2  # and idle ones need not wait the default's 2 s
# A busy CPU may answer late; Ray Serve's default of 30 s would restart a replica that is only busy.
_HEALTH_TIMEOUT_S = 120.0
_HEALTH_LOOK_S = 2.0  # how soon a replica that died is replaced; by default 10 s
_GROW_AFTER_S = 5.0
_STARTS = 2  # of a replica whose constructor fails, before the app fails
_NAMESPACE = "serve"  # Ray Serve's actors
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)


@dataclass(frozen=True, eq=False)
class Text:
    """Token states (m, text_dim) of prompt and negative prompt, and the uncut number of tokens of each."""

    prompt: np.ndarray
    negative: np.ndarray
    n_tokens: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Denoised:
    """A latent (T, h, w, C) float32, and its `Text.n_tokens`.

    seconds: its duration, including the wait.
    """

    latent: np.ndarray
    n_text: tuple[int, int]
    seconds: float


class TextEncode:
    """Prompts to token states."""

    def __init__(self, settings: EncodeSettings, gpus: float = 0) -> None:
        with starting("the text encoder"):
            self._encoder = make_text_encoder(settings, _device(gpus))
            self._encoder.count(["ready"])  # otherwise every request would fail on a missing part

    def __call__(self, request: Request) -> Text:
        """The states of prompt and negative prompt."""
        texts = [request.prompt, request.negative_prompt]
        prompt, negative = self._encoder.encode(texts)
        n_prompt, n_negative = self._encoder.count(texts)
        return Text(prompt.numpy(), negative.numpy(), (n_prompt, n_negative))


class Denoise:
    """Noise to latents; all requests of a replica share its passes."""

    def __init__(self, model: Opened, settings: GenerateSettings, run: str) -> None:
        self._model, self._card = model, model.card
        self._device = str(_device(settings.use_gpu))
        with starting("the model"):
            experts = model.load(self._device)
            self._denoiser = Denoiser(experts, token_budget=settings.token_budget, publisher=Publisher(run))

    async def __call__(
        self, request: Request, text: Text, canvas: tuple[np.ndarray, np.ndarray, Any] | None
    ) -> Denoised:
        """The finished latent. Waits without holding a thread, so any number of requests may wait.

        If the device is lost, this process ends: Serve starts another, and the batch resends its requests.
        """
        started = time.monotonic()
        work = await asyncio.to_thread(self._begin, request, text, canvas)
        try:
            done = await asyncio.wrap_future(self._denoiser.submit(work))
        except Broken:
            logging.getLogger("ray.serve").exception("This replica cannot continue.")
            os._exit(1)
        latent = done.latent(self._card.model.patch).cpu().numpy()
        return Denoised(latent, text.n_tokens, time.monotonic() - started)

    def _begin(self, request: Request, text: Text, canvas: Any) -> sampler.Work:
        if canvas is None:
            start = conditions.blank(request, self._card.patching, self._card.channels)
        else:
            start = Canvas(*(torch.tensor(part) for part in canvas[:2]))
        states = (torch.tensor(text.prompt), torch.tensor(text.negative))
        sampling = self._model.sampling
        return sampler.begin(request, start, states, card=self._card, sampling=sampling, device=self._device)


class DecodeWrite:
    """Media to conditioning latents, and latents to committed files: the work that needs the codec."""

    def __init__(self, card: ModelCard, gpus: float = 0) -> None:
        with starting("the codec"):
            self._codec = make_codec(card.encode, _device(gpus))
        self._patching, self._most_text = card.patching, card.encode.max_text_tokens

    def canvas(self, request: Request) -> tuple[np.ndarray, np.ndarray, list[Conditioning]]:
        """The request's conditioning latent: latent (T, h, w, C), given (T,); and the frames it is from."""
        place, frames = media.read_given(request, self._patching)
        canvas = conditions.canvas(place, frames, self._codec)
        return canvas.latent.numpy(), canvas.given.numpy(), conditioning(request, place, frames)

    def write(self, request: Request, denoised: Denoised, canvas: Any, target: Target) -> dict[str, object]:
        """Decodes, encodes and commits the output, then creates the sidecar and returns it.

        The sidecar marks the request as finished. If attempts race, one creates it, and all return that one.
        """
        started = time.monotonic()
        decoded = _Timed(self._codec.decode(torch.tensor(denoised.latent)))
        made = self._patching.covering(request.size)
        frames = (frame for group in decoded for frame in group.cpu().numpy())
        content, suffix = mp4.media_bytes(conditions.crop(frames, request, made.n_frames), request.fps)
        storage.put(target.location + suffix, content)
        timings = {
            "denoise": round(denoised.seconds, 3),
            "decode": round(decoded.seconds, 3),
            "write": round(time.monotonic() - started - decoded.seconds, 3),
        }
        about = {
            "changes": changes(request, self._patching, denoised.n_text, self._most_text),
            **put_conditioning(target.location, canvas[2] if canvas else []),
        }
        document = sidecar(request, target, suffix, timings) | about
        if storage.create(target.location + ".json", storage.json_bytes(document)):
            return document
        return storage.read_json(target.location + ".json")


def _device(gpus: float) -> torch.device:
    return torch.device("cuda" if gpus else "cpu")


class _Timed:
    """Iterates over `items`; `seconds` is the time they have taken so far."""

    def __init__(self, items: Iterator[torch.Tensor]) -> None:
        self._items, self.seconds = items, 0.0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            started = time.monotonic()
            item = next(self._items, None)
            self.seconds += time.monotonic() - started
            if item is None:
                return
            yield item


class Generate:
    """The ingress: sends one request through the others."""

    def __init__(self, text: Any, denoise: Any, codec: Any) -> None:
        self._text, self._denoise, self._codec = text, denoise, codec

    async def __call__(self, request: Request, target: Target) -> dict[str, object] | Rejected:
        """The sidecar of the committed output, or why it has none. Arrays pass from replica to replica."""
        text = self._text.remote(request)
        canvas = self._codec.canvas.remote(request) if MEDIA[request.mode] else None
        try:
            return await self._codec.write.remote(
                request, self._denoise.remote(request, text, canvas), canvas, target
            )
        except RayTaskError as error:
            if isinstance(error.cause, Rejected):
                return error.cause
            raise


def build(model: Opened, settings: Settings) -> serve.Application:
    """The app that generates with a model.

    Each deployment scales with its load, up to its number of replicas, and to zero when idle, so that an app
    whose job was killed does not hold its nodes.
    """
    own, ongoing, card = settings.generate, settings.generate.max_in_flight, model.card
    text = deployed(TextEncode, own.text_replicas, settings, cpus=TEXT_CPUS, gpus=own.text_gpus)
    codec = deployed(DecodeWrite, own.decode_replicas, settings, cpus=DECODE_CPUS, gpus=own.decode_gpus)
    gpu = {"cpus": own.denoise_cpus, "gpus": int(own.use_gpu)}
    denoise = deployed(Denoise, own.denoise_replicas, settings, ongoing=ongoing, **gpu)
    generate = deployed(Generate, 1, settings, cpus=INGRESS_CPUS, ongoing=ongoing)
    return generate.bind(
        text.bind(card.encode, own.text_gpus),
        denoise.bind(model, own, settings.run.folder),
        codec.bind(card, own.decode_gpus),
    )


@contextmanager
def serving(app: serve.Application, batch: str, name: str, trace: TracingConfig) -> Iterator[Any]:
    """Runs `app` without HTTP and yields its handle; takes over an app of that name that a killed job left.

    Other apps whose names begin with `batch` are removed first: they would hold the resources of this one.
    The app is removed at the end, at once if the work was interrupted.

    Raises:
        Failed: a replica cannot start; says why.
    """
    logging.getLogger("ray.serve").addFilter(_worth_reading)
    serve.start(proxy_location="Disabled", logging_config=_QUIET, tracing_config=trace)
    running = serve.status().applications
    for other in running:
        if other.startswith(batch) and other != name:
            serve.delete(other)
    status = running.get(name)
    try:
        left = status and status.status == "RUNNING"
        handle = serve.get_app_handle(name) if left else _run(app, name)
        yield handle
        handle.shutdown()  # otherwise it keeps reporting its waiting requests to Serve
    except BaseException:
        _remove_at_once(name)
        raise
    serve.delete(name)


def _remove_at_once(name: str) -> None:
    """Removes an app and kills its replicas, even busy ones: they commit an output whole or not at all.

    Serve alone would wait for requests that nobody needs any more.
    """
    serve.delete(name, _blocking=False)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == _NAMESPACE and f"::{name}#" in actor["name"]:
            with suppress(ValueError):  # already gone
                ray.kill(ray.get_actor(actor["name"], namespace=_NAMESPACE))


def _run(app: serve.Application, name: str) -> Any:
    try:
        return serve.run(app, name=name, route_prefix=None, logging_config=_QUIET)
    except RuntimeError:  # which names only the deployment
        deployments = serve.status().applications[name].deployments.values()
        failed = [d.message for d in deployments if d.status != DeploymentStatus.HEALTHY]
        raise Failed(f"generation cannot start: {reason(failed)}") from None


def stuck(name: str) -> str | None:
    """Why a replica of a running app cannot start, if so: requests would wait for it."""
    app = serve.status().applications.get(name)
    waiting = [d for d in app.deployments.values() if d.status != DeploymentStatus.HEALTHY] if app else []
    failing = [d.message for d in waiting if CannotStart.__name__ in d.message]
    return reason(failing) if failing else None


def _worth_reading(record: logging.LogRecord) -> bool:
    """False for the message that a replica on a busy CPU reported its queue late; it is asked again."""
    return "Failed to get queue length" not in record.getMessage()


def deployed(
    cls: type, most: int, settings: Settings, *, cpus: float, gpus: float = 0, ongoing: int = 1
) -> Any:
    """A deployment of up to `most` replicas on the generate nodes.

    `ongoing`: requests a replica takes at once; the others wait for any free replica.
    """
    idle_s, labels = settings.generate.idle_s, node_labels(settings, "generate")
    options = {"num_cpus": cpus, "num_gpus": gpus} | ({"label_selector": labels} if labels else {})
    return serve.deployment(
        autoscaling_config={
            "min_replicas": 0,
            "initial_replicas": 1,
            "max_replicas": most,
            "target_ongoing_requests": max(1.0, ongoing / most),  # all replicas work before any is full
            "upscale_delay_s": _GROW_AFTER_S,
            "downscale_delay_s": idle_s,
            "downscale_to_zero_delay_s": idle_s,
        },
        max_ongoing_requests=ongoing,
        max_constructor_retry_count=_STARTS,
        graceful_shutdown_timeout_s=_GRACEFUL_SHUTDOWN_S,
        graceful_shutdown_wait_loop_s=_GRACEFUL_SHUTDOWN_LOOK_S,
        health_check_period_s=_HEALTH_LOOK_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        ray_actor_options=options,
    )(cls)
