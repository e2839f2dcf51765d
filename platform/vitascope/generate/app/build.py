"""The app: deployments and their ingress."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.config import AutoscalingPolicy, RequestRouterConfig
from ray.serve.exceptions import RayServeException

from vitascope.cluster.placement import node_labels
from vitascope.config import Settings
from vitascope.encode.settings import EncodeSettings
from vitascope.generate.app import codec, denoise
from vitascope.generate.app.codec import DecodeWrite, Publishing
from vitascope.generate.app.denoise import Denoise
from vitascope.generate.app.prompt import Prompt
from vitascope.generate.app.routing import by_cost
from vitascope.generate.app.scaling import Scaling
from vitascope.generate.app.shares import Takes
from vitascope.generate.app.text import TextEncode
from vitascope.generate.app.values import Metered
from vitascope.generate.chunks import alone, chunks_of
from vitascope.generate.denoise.scheduler import Queue
from vitascope.generate.models import DEFAULT, Models
from vitascope.generate.opened import Opened, Target
from vitascope.generate.request import Request
from vitascope.generate.settings import DECODE_CPUS, INGRESS_CPUS, TEXT_CPUS
from vitascope.ledger import Rejected
from vitascope.prompts import screen
from vitascope.prompts.screen import Screen
from vitascope.prompts.settings import PromptsSettings
from vitascope.provenance.signer import Signer

_GRACEFUL_SHUTDOWN_LOOK_S = 0.2  # idle replicas need not wait the default's 2 s
# A busy CPU may answer late; Ray Serve's default of 30 s would restart a replica that is only busy.
_HEALTH_TIMEOUT_S = 120.0
_HEALTH_LOOK_S = 2.0  # how soon a replica that died is replaced; by default 10 s
_WAKE_EVERY_S = 10.0
_STARTS = 2  # of a replica whose constructor fails, before the app fails


@dataclass(frozen=True)
class Parts:
    """The deployments that make the outputs of a model; models may have some in common."""

    model: Opened
    text: Any
    denoise: Any
    codec: Any


class Generate(Metered):
    """The ingress: sends one request through the others."""

    def __init__(self, models: Mapping[str, Parts], prompts: PromptsSettings, prompt: Any = None) -> None:
        """`prompt`: the deployment that refuses or rewrites prompts; None if the list of words is enough."""
        super().__init__()
        self._models, self._prompt, self._screen = models, prompt, Screen(prompts)
        self._caller = uuid.uuid4().hex
        self._woken: dict[str, float] = {}
        self._waking: set[asyncio.Task[None]] = set()

    async def __call__(self, request: Request, target: Target) -> dict[str, object] | Rejected:
        """The sidecar of the committed output, or why it has none."""
        with self.meter.doing(self._takes(1.0)):
            name = request.model or DEFAULT
            try:
                if self._prompt is None:
                    self._screen.check(request.prompt)
                self._wake(name)
                return await self._made(request, target, self._models[name])
            except RayTaskError as error:  # which is of its cause's class, too
                if isinstance(error.cause, Rejected):
                    return error.cause
                raise
            except Rejected as error:
                return error

    async def preview(self, request: Request, location: str) -> bytes | None:
        """A jpeg of the first frame of an output that is being made; None if no state of it is saved."""
        codec = self._models[request.model or DEFAULT].codec
        picture: bytes | None = await codec.preview.remote(location, takes=self._takes(0.0))
        return picture

    async def _made(self, request: Request, target: Target, parts: Parts) -> dict[str, object]:
        """Each stage is asked once its inputs are ready: otherwise requests would wait for them in its room.

        What is passed on are references: arrays pass from replica to replica.
        """
        ready, patching = time.time(), parts.model.card.patching
        chunks = chunks_of(request, patching)
        first = alone(request, chunks[0], patching) if len(chunks) > 1 else request
        pixels = _pixels(first)
        used = request
        if self._prompt is not None:
            used = await self._prompt.remote(request, takes=self._takes(1.0))
        text = parts.text.remote(used, ready=ready, takes=self._takes(1.0))
        given = None
        if request.media:
            given = parts.codec.canvas.remote(first, ready=ready, takes=self._takes(pixels))
        await asyncio.gather(*(part for part in (text, given) if part is not None))
        priority = request.priority
        cost = parts.model.cost(first)
        lane = (priority, int(request.deadline_s is not None), Queue.class_of(cost))
        takes = replace(self._takes(cost, cost / first.n_passes, priority), lane=lane)
        if len(chunks) > 1:
            how = {"takes": self._takes(_pixels(request)), "chunk": takes, "used": used.prompt}
            return await parts.codec.write_long.remote(request, text, given, target, arrived=ready, **how)
        denoised = parts.denoise.remote(used, target, text, given, takes=takes, arrived=ready)
        await denoised
        takes = self._takes(pixels, 1.0, priority)
        return await parts.codec.write.remote(request, denoised, given, target, takes=takes, used=used.prompt)

    def _wake(self, name: str) -> None:
        """Has the later stages start too if they are at zero, and not only once the stage before is done."""
        now, parts = time.monotonic(), self._models[name]
        if now - self._woken.get(name, -_WAKE_EVERY_S) >= _WAKE_EVERY_S:
            self._woken[name] = now
            for part in (parts.denoise, parts.codec):
                task = asyncio.create_task(self._awake(part))
                self._waking.add(task)  # the loop itself keeps no reference
                task.add_done_callback(self._waking.discard)

    async def _awake(self, part: Any) -> None:
        with suppress(RayError, RayServeException):  # the request that needs the stage meets the error itself
            await part.awake.remote(takes=self._takes(0.0))

    def _takes(self, cost: float, room: float = 0.0, priority: int = 0) -> Takes:
        return Takes(cost, room, self._caller, priority)


def _pixels(request: Request) -> float:
    size = request.size
    return float(size.n_frames * size.height * size.width)


def build(models: Models, settings: Settings) -> serve.Application:
    """The app that generates with these models.

    Each deployment scales with its load, up to its number of replicas, and to zero when idle, so that an app
    whose job was killed does not hold its nodes. Each model has its own, unless they are the same for two.

    Raises:
        Mistake: the key that signs outputs, or a function that rewrites or refuses, cannot be used.
    """
    Signer(settings.provenance)
    screen.check(settings.prompts)
    prompts, prompt = settings.prompts, None
    if prompts.works:
        how: dict[str, Any] = {"cpus": prompts.cpus, "gpus": int(prompts.use_gpu)}
        prompt = deployed(Prompt, 1, settings, ongoing=prompts.in_flight, **how)
        prompt = prompt.bind(prompts, settings.path("prompts"))
    generate = deployed(Generate, 1, settings, cpus=INGRESS_CPUS, ongoing=_MANY)
    return generate.bind(bound(models, settings), prompts, prompt)


def bound(models: Models, settings: Settings) -> dict[str, Parts]:
    """The deployments of each model, for an ingress to be bound to."""
    own = settings.generate
    publishing = Publishing(settings.provenance, settings.prompts.frames)
    texts: dict[str, Any] = {}
    parts = {}
    for name, model in models.each.items():
        card = model.opened.card
        key = _text_key(card.encode)
        if key not in texts:
            how: dict[str, Any] = {"cpus": TEXT_CPUS, "gpus": own.text_gpus, "model": name}
            texts[key] = deployed(TextEncode, own.text_replicas, settings, **how)
            texts[key] = texts[key].bind(card.encode, own.text_gpus)
        how = {"cpus": DECODE_CPUS, "gpus": own.decode_gpus, "ongoing": _MANY, "model": name}
        coded = deployed(DecodeWrite, own.decode_replicas, settings, room=codec.WRITES, **how)
        how = {"cpus": own.denoise_cpus, "gpus": int(own.use_gpu), "ongoing": _MANY, "model": name}
        made = deployed(Denoise, own.denoise_replicas, settings, room=denoise.room(settings), **how)
        denoised = made.bind(name, settings)
        parts[name] = Parts(
            model.opened, texts[key], denoised, coded.bind(card, own.decode_gpus, denoised, publishing)
        )
    return parts


_MANY = 10_000
"""Requests that a replica may have open, if something else limits them."""


def _text_key(encode: EncodeSettings) -> str:
    """The same for two models with the same text encoder."""
    return encode.model_dump_json(include={name for name in EncodeSettings.model_fields if "text" in name})


def deployed(
    cls: type,
    most: int,
    settings: Settings,
    *,
    cpus: float,
    gpus: float = 0,
    ongoing: int = 1,
    room: float | None = None,
    model: str = DEFAULT,
) -> Any:
    """A deployment of up to `most` replicas on the generate nodes.

    Args:
        ongoing: requests a replica takes at once; the others wait for any free replica.
        room: of a replica, if requests are sent by what they take of it (`Takes`), and not by their number.
        model: whose deployment it is; one of another model than the default starts when it is needed.
    """
    own, labels = settings.generate, node_labels(settings, "generate")
    options = {"num_cpus": cpus, "num_gpus": gpus} | ({"label_selector": labels} if labels else {})
    return serve.deployment(
        name=f"{cls.__name__}-{model}" if model else cls.__name__,
        autoscaling_config={
            "min_replicas": 0,
            "initial_replicas": int(model == DEFAULT),
            "max_replicas": most,
            "upscale_delay_s": 0,  # the policy has its own delays
            "downscale_delay_s": 0,
            "policy": AutoscalingPolicy(
                policy_function=f"{Scaling.__module__}:{Scaling.__name__}",
                policy_kwargs={"drain_s": own.queue_s, "idle_s": own.idle_s},
            ),
        },
        max_ongoing_requests=ongoing,
        max_constructor_retry_count=_STARTS,
        graceful_shutdown_timeout_s=own.longest_request_s,
        graceful_shutdown_wait_loop_s=_GRACEFUL_SHUTDOWN_LOOK_S,
        health_check_period_s=_HEALTH_LOOK_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        ray_actor_options=options,
        request_router_config=RequestRouterConfig() if room is None else by_cost(room),
    )(cls)
