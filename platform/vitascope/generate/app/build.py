"""The app: deployments and their ingress."""

from typing import Any

from ray import serve
from ray.exceptions import RayTaskError

from vitascope.cluster.placement import node_labels
from vitascope.config import Settings
from vitascope.generate.app.codec import DecodeWrite
from vitascope.generate.app.denoise import Denoise
from vitascope.generate.app.prompt import Prompt
from vitascope.generate.app.text import TextEncode
from vitascope.generate.opened import Opened, Target
from vitascope.generate.request import MEDIA, Request
from vitascope.generate.settings import DECODE_CPUS, INGRESS_CPUS, TEXT_CPUS
from vitascope.ledger import Rejected
from vitascope.prompts import screen
from vitascope.prompts.screen import Screen
from vitascope.prompts.settings import PromptsSettings
from vitascope.provenance.signer import Signer

# A video takes minutes; Ray Serve's default of 20 s would kill requests in flight when a replica is removed.
_GRACEFUL_SHUTDOWN_S = 900.0
_GRACEFUL_SHUTDOWN_LOOK_S = 0.2  # and idle ones need not wait the default's 2 s
# A busy CPU may answer late; Ray Serve's default of 30 s would restart a replica that is only busy.
_HEALTH_TIMEOUT_S = 120.0
_HEALTH_LOOK_S = 2.0  # how soon a replica that died is replaced; by default 10 s
_GROW_AFTER_S = 5.0
_STARTS = 2  # of a replica whose constructor fails, before the app fails


class Generate:
    """The ingress: sends one request through the others."""

    def __init__(
        self, text: Any, denoise: Any, codec: Any, *, prompts: PromptsSettings, prompt: Any = None
    ) -> None:
        self._text, self._denoise, self._codec = text, denoise, codec
        self._prompt, self._screen = prompt, Screen(prompts)

    async def __call__(self, request: Request, target: Target) -> dict[str, object] | Rejected:
        """The sidecar of the committed output, or why it has none. Arrays pass from replica to replica."""
        if self._prompt is None:
            try:
                self._screen.check(request.prompt)
            except Rejected as error:
                return error
        used = self._prompt.remote(request) if self._prompt else request
        text = self._text.remote(used)
        canvas = self._codec.canvas.remote(request) if MEDIA[request.mode] else None
        try:
            return await self._codec.write.remote(
                request, self._denoise.remote(request, text, canvas), canvas, target, used=used
            )
        except RayTaskError as error:
            if isinstance(error.cause, Rejected):
                return error.cause
            raise


def build(model: Opened, settings: Settings) -> serve.Application:
    """The app that generates with a model.

    Each deployment scales with its load, up to its number of replicas, and to zero when idle, so that an app
    whose job was killed does not hold its nodes.

    Raises:
        Mistake: the key that signs outputs, or a function that rewrites or refuses, cannot be used.
    """
    Signer(settings.provenance)
    screen.check(settings.prompts)
    prompts, prompt = settings.prompts, None
    if prompts.works:
        takes: dict[str, Any] = {
            "cpus": prompts.cpus,
            "gpus": int(prompts.use_gpu),
            "ongoing": prompts.in_flight,
        }
        prompt = deployed(Prompt, 1, settings, **takes).bind(prompts, settings.path("prompts"))
    own, ongoing, card = settings.generate, settings.generate.max_in_flight, model.card
    text = deployed(TextEncode, own.text_replicas, settings, cpus=TEXT_CPUS, gpus=own.text_gpus)
    codec = deployed(DecodeWrite, own.decode_replicas, settings, cpus=DECODE_CPUS, gpus=own.decode_gpus)
    gpu = {"cpus": own.denoise_cpus, "gpus": int(own.use_gpu)}
    denoise = deployed(Denoise, own.denoise_replicas, settings, ongoing=ongoing, **gpu)
    generate = deployed(Generate, 1, settings, cpus=INGRESS_CPUS, ongoing=ongoing)
    return generate.bind(
        text.bind(card.encode, own.text_gpus),
        denoise.bind(model, own, settings.run.folder),
        codec.bind(card, own.decode_gpus, settings.provenance, prompts.frames),
        prompts=prompts,
        prompt=prompt,
    )


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
