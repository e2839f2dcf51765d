"""Noise to latents."""

import asyncio
import logging
import os
import time
from importlib.metadata import version as release

import torch

from vitascope.config import Settings
from vitascope.generate import conditions
from vitascope.generate.app.shares import Takes
from vitascope.generate.app.values import Denoised, Given, Metered, Text, device
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise import sampler, saturation, states
from vitascope.generate.denoise.divide import Broken
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.pace import Pace
from vitascope.generate.denoise.states import Saver, Slot
from vitascope.generate.denoise.versions import Versions
from vitascope.generate.models import open_model
from vitascope.generate.opened import Opened, Target
from vitascope.generate.request import Request
from vitascope.generate.settings import GenerateSettings
from vitascope.generate.sidecar import Spent
from vitascope.generate.starting import starting
from vitascope.metrics import Publisher
from vitascope.records import stable_id

_PASSES_HELD = 2.0  # of requests that a replica takes at once of each lane: for this pass and for later ones
_FIRST_BUDGET = 1024
_ROOM_FOR_PASSES = 1.3  # times the weights of another version, for which there is memory


class Denoise(Metered):
    """Noise to latents; all requests of a replica share its passes."""

    def __init__(self, name: str, settings: Settings) -> None:
        """`name`: of the model, in the folder of which the newest version is loaded."""
        super().__init__()
        self._name, self._settings = name, settings
        self._device = device(settings.generate.use_gpu)
        self.room = room(settings)
        with starting("the model"):
            self._versions = Versions(self._newest(), self._start, self._newest, self._has_room)

    async def __call__(
        self,
        request: Request,
        target: Target,
        text: Text,
        given: Given | None,
        *,
        takes: Takes,
        arrived: float,
        later: float = 0.0,
    ) -> Denoised:
        """The finished latent. Waits without holding a thread, so any number of requests may wait.

        Goes on from the request's saved state if a replica that was killed has left one. If the call is
        cancelled, the request leaves before the next pass. If the device is lost, this process ends: Serve
        starts another, and the batch resends its requests.

        Args:
            arrived: the Unix time from which on the request's deadline counts.
            later: the work that follows before the deadline, relative to this request's.
        """
        ready = max(part.spent.ended for part in (text, given) if part)
        with self.meter.doing(takes):
            async with self._versions.of(target.model, more=later > 0) as version:
                card = version.model.card
                work = await asyncio.to_thread(self._begin, version.model, request, text, given)
                later_s = later * version.denoiser.least_s(work)
                at = _slot(request, target)
                work = await asyncio.to_thread(states.resumed, work, at)
                started = time.time()
                due_s = (
                    None if request.deadline_s is None else arrived + request.deadline_s - started - later_s
                )
                try:
                    future = version.denoiser.submit(work, priority=request.priority, deadline_s=due_s, at=at)
                    done = await asyncio.wrap_future(future)
                except Broken:
                    logging.getLogger("ray.serve").exception("This replica cannot continue.")
                    os._exit(1)
                latent = await asyncio.to_thread(lambda: done.latent(card.model.patch).cpu().numpy())
        spent = {"text": text.spent} | ({"conditioning": given.spent} if given else {})
        spent["denoise"] = Spent.since(ready, started)
        return Denoised(latent, text.n_tokens, spent, done.device_s)

    def check_health(self) -> None:
        """Serve restarts a replica whose device is lost, or whose pass never ends."""
        for denoiser in self._versions.denoisers:
            denoiser.check_health()

    def _newest(self) -> Opened:
        return open_model(self._settings, self._name).opened

    def _start(self, model: Opened) -> Denoiser:
        settings, experts = (
            self._settings.generate,
            model.load(str(self._device), invariant=self._settings.generate.invariant),
        )
        budget, pace = _budget(model, experts, settings)
        self.room = _PASSES_HELD * budget
        return Denoiser(
            experts,
            token_budget=budget,
            max_tokens=settings.max_tokens,
            pace=pace,
            saver=Saver(settings.save_state_s),
            publisher=Publisher(self._settings.run.folder),
        )

    def _has_room(self, model: Opened) -> bool:
        """Whether the memory holds this version next to the one that is loaded."""
        on_gpu = self._device.type == "cuda"
        on_cpu = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        free = torch.cuda.mem_get_info()[0] if on_gpu else on_cpu
        return model.n_parameters * (2 if on_gpu else 4) * _ROOM_FOR_PASSES < free

    def _begin(self, model: Opened, request: Request, text: Text, given: Given | None) -> sampler.Work:
        if given is None:
            start = conditions.blank(request, model.card.patching, model.card.channels)
        else:
            start = Canvas(torch.tensor(given.latent), torch.tensor(given.given))
        tokens = (torch.tensor(text.prompt), torch.tensor(text.negative))
        sampling, where = model.sampling, str(self._device)
        return sampler.begin(request, start, tokens, card=model.card, sampling=sampling, device=where)


def room(settings: Settings) -> float:
    """What a replica takes at once of each lane, until it has measured its passes."""
    return _PASSES_HELD * (settings.generate.token_budget or _FIRST_BUDGET)


def _slot(request: Request, target: Target) -> Slot:
    adapter = target.adapter.identity if target.adapter else ""
    identity = stable_id(request.model_dump_json(), target.model.identity, adapter, release("vitascope"))
    return states.slot(target.location, identity)


def _budget(model: Opened, experts: Experts, settings: GenerateSettings) -> tuple[float, Pace]:
    """The cost of a pass, from the settings or measured, and how long passes take, if measured."""
    if settings.token_budget is not None:
        return settings.token_budget, Pace()
    found = saturation.of_machine(experts, model.card, settings.max_tokens, model.maker.identity)
    return found.cost, Pace(found.points)
