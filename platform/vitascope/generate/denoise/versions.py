"""The versions of a model that a replica runs."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.opened import Maker, Opened
from vitascope.ledger import Reason, Rejected

_KEPT_S = 300.0  # longer than the next chunk of a long video waits for room


@dataclass
class Version:
    """A loaded version, and the number of its unfinished requests."""

    model: Opened
    denoiser: Denoiser
    n_open: int = 0
    kept_until: float = 0.0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Versions:
    """Each request is denoised by the version of the model that it was accepted for.

    A newer version is loaded when the first request for it comes, next to the older one if there is memory
    for both, otherwise once the older one's requests are finished; it then goes as soon as it has none.
    """

    def __init__(
        self,
        model: Opened,
        start: Callable[[Opened], Denoiser],
        newest: Callable[[], Opened],
        has_room: Callable[[Opened], bool],
    ) -> None:
        """Starts with `model`.

        Args:
            start: loads a version. newest: the version that the model's folder now holds.
            has_room: whether it can be loaded next to others.
        """
        self._start, self._newest, self._has_room = start, newest, has_room
        self._loading = asyncio.Lock()
        self._each = {model.maker.identity: Version(model, start(model))}

    @property
    def denoisers(self) -> list[Denoiser]:
        """Those of all loaded versions."""
        return [version.denoiser for version in self._each.values()]

    @asynccontextmanager
    async def of(self, maker: Maker, *, more: bool = False) -> AsyncIterator[Version]:
        """The version that a request was accepted for, which stays loaded within the context.

        Args:
            more: another request for it follows, the next chunk of a long video: it stays for a while.

        Raises:
            Rejected: its files were replaced before this replica has loaded it; doubtful.
        """
        version = self._each.get(maker.identity) or await self._loaded(maker)
        version.n_open += 1
        version.idle.clear()
        try:
            yield version
        finally:
            version.n_open -= 1
            if more:
                version.kept_until = time.monotonic() + _KEPT_S
            if not version.n_open:
                version.idle.set()
                await self._drop_old()

    async def _loaded(self, maker: Maker) -> Version:
        async with self._loading:
            if maker.identity not in self._each:
                model = await asyncio.to_thread(self._newest)
                if model.maker.identity != maker.identity:
                    raise Rejected(
                        Reason.GENERATION_FAILED,
                        f"the model in {maker.folder} was replaced after the request was accepted; send it "
                        "again, and the new one makes it",
                        doubtful=True,
                    )
                if not self._has_room(model):
                    while busy := [version for version in self._each.values() if version.n_open]:
                        await busy[0].idle.wait()
                    await self._close(list(self._each))
                self._each[maker.identity] = Version(model, await asyncio.to_thread(self._start, model))
                await self._drop_old()
            return self._each[maker.identity]

    async def _drop_old(self) -> None:
        old = list(self._each)[:-1]
        now = time.monotonic()
        idle = (identity for identity in old if not self._each[identity].n_open)
        await self._close([identity for identity in idle if self._each[identity].kept_until <= now])

    async def _close(self, identities: list[str]) -> None:
        for version in [self._each.pop(identity) for identity in identities]:
            await asyncio.to_thread(version.denoiser.close)
