"""Noise to latents."""

import asyncio
import logging
import os
import time
from importlib.metadata import version

import torch

from vitascope.generate import conditions
from vitascope.generate.app.values import Conditions, Denoised, Text, device
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise import sampler, saturation, states
from vitascope.generate.denoise.divide import Broken
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.pace import Pace
from vitascope.generate.denoise.states import Saver
from vitascope.generate.opened import Opened, Target
from vitascope.generate.request import Request
from vitascope.generate.settings import GenerateSettings
from vitascope.generate.starting import starting
from vitascope.metrics import Publisher
from vitascope.records import stable_id


class Denoise:
    """Noise to latents; all requests of a replica share its passes."""

    def __init__(self, model: Opened, settings: GenerateSettings, run: str) -> None:
        self._model, self._card = model, model.card
        self._device = str(device(settings.use_gpu))
        with starting("the model"):
            experts = model.load(self._device)
            budget, pace = self._budget(experts, settings)
            self._denoiser = Denoiser(
                experts,
                token_budget=budget,
                max_tokens=settings.max_tokens,
                pace=pace,
                saver=Saver(settings.save_state_s),
                publisher=Publisher(run),
            )

    def _budget(self, experts: Experts, settings: GenerateSettings) -> tuple[float, Pace]:
        """The cost of a pass, from the settings or measured, and how long passes take, if measured."""
        if settings.token_budget is not None:
            return settings.token_budget, Pace()
        identity = self._model.maker.identity
        found = saturation.of_machine(experts, self._card, settings.max_tokens, identity)
        return found.cost, Pace(found.points)

    def check_health(self) -> None:
        """Serve restarts a replica whose device is lost, or whose pass never ends."""
        self._denoiser.check_health()

    async def __call__(
        self,
        request: Request,
        text: Text,
        canvas: Conditions | None,
        target: Target,
        *,
        arrived: float | None = None,
    ) -> Denoised:
        """The finished latent. Waits without holding a thread, so any number of requests may wait.

        Goes on from the request's saved state if a replica that was killed has left one. If the call is
        cancelled, the request leaves before the next pass. If the device is lost, this process ends: Serve
        starts another, and the batch resends its requests.

        Args:
            arrived: the Unix time from which on the request's deadline counts; by default now.
        """
        started = time.monotonic()
        due = None if request.deadline_s is None else (arrived or time.time()) + request.deadline_s
        adapter = target.adapter.identity if target.adapter else ""
        identity = stable_id(request.model_dump_json(), target.model.identity, adapter, version("vitascope"))
        at = states.slot(target.location, identity)
        work = await asyncio.to_thread(self._begin, request, text, canvas)
        work = await asyncio.to_thread(states.resumed, work, at)
        deadline_s = None if due is None else due - time.time()
        try:
            done = await asyncio.wrap_future(
                self._denoiser.submit(work, priority=request.priority, deadline_s=deadline_s, at=at)
            )
        except Broken:
            logging.getLogger("ray.serve").exception("This replica cannot continue.")
            os._exit(1)
        latent = done.latent(self._card.model.patch).cpu().numpy()
        return Denoised(latent, text.n_tokens, time.monotonic() - started, done.device_s)

    def _begin(self, request: Request, text: Text, canvas: Conditions | None) -> sampler.Work:
        if canvas is None:
            start = conditions.blank(request, self._card.patching, self._card.channels)
        else:
            start = Canvas(torch.tensor(canvas.latent), torch.tensor(canvas.given))
        states = (torch.tensor(text.prompt), torch.tensor(text.negative))
        sampling = self._model.sampling
        return sampler.begin(request, start, states, card=self._card, sampling=sampling, device=self._device)
