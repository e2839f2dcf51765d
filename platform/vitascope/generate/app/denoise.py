"""Noise to latents."""

import asyncio
import logging
import os
import time
from typing import Any

import numpy as np
import torch

from vitascope.generate import conditions
from vitascope.generate.app.values import Denoised, Text, device
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise import sampler
from vitascope.generate.denoise.divide import Broken
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.opened import Opened
from vitascope.generate.request import Request
from vitascope.generate.settings import GenerateSettings
from vitascope.generate.starting import starting
from vitascope.metrics import Publisher


class Denoise:
    """Noise to latents; all requests of a replica share its passes."""

    def __init__(self, model: Opened, settings: GenerateSettings, run: str) -> None:
        self._model, self._card = model, model.card
        self._device = str(device(settings.use_gpu))
        with starting("the model"):
            experts = model.load(self._device, invariant=settings.invariant)
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
