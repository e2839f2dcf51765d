"""Prompts as they are asked to prompts as they are used."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from vitascope.generate.app.shares import FREE, Takes
from vitascope.generate.app.values import Metered
from vitascope.generate.request import Request
from vitascope.generate.starting import starting
from vitascope.prompts.screen import Screen
from vitascope.prompts.settings import PromptsSettings
from vitascope.prompts.upsample import Upsampler


class Prompt(Metered):
    """Refuses prompts, and rewrites them; several at a time, except by a local model."""

    def __init__(self, settings: PromptsSettings, folder: str) -> None:
        """`folder`: where rewritten prompts are kept."""
        super().__init__()
        with starting("what rewrites and filters prompts"):
            self._screen = Screen(settings)
            self._upsample = Upsampler(settings, folder) if settings.upsample != "off" else None
        n_threads = 1 if settings.upsample == "local" else settings.in_flight
        self._threads = ThreadPoolExecutor(n_threads, "prompts")

    async def __call__(self, request: Request, *, takes: Takes = FREE) -> Request:
        """The request with the prompt to use.

        Raises:
            Rejected: PROMPT_REFUSED, for the prompt or its new form; GENERATION_FAILED if it has none.
        """
        with self.meter.doing(takes):
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._used, request)

    def _used(self, request: Request) -> Request:
        self._screen.check(request.prompt)
        if self._upsample is None:
            return request
        used = self._upsample(request.prompt)
        self._screen.check(used)
        return request.model_copy(update={"prompt": used})
