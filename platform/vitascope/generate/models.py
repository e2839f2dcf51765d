"""The models that requests may choose from, by name."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vitascope.config import Settings
from vitascope.errors import Missing, Mistake, in_a_line
from vitascope.generate.opened import Opened, Target, opened
from vitascope.generate.parse import Limits
from vitascope.generate.request import Request
from vitascope.generate.settings import GenerateSettings
from vitascope.ledger import Reason, Rejected

DEFAULT = ""
"""The name of `generate.model`, of requests without `model`."""
_SENT = 4
"""How often a request is sent while its model is being replaced: a change takes two checks to be used."""


@dataclass(frozen=True)
class Model:
    """An opened model, and the settings for it: with the adapters that fit it alone."""

    opened: Opened
    settings: GenerateSettings


@dataclass(frozen=True)
class Models:
    """The default model, as DEFAULT, and those of `generate.models`, by name."""

    each: Mapping[str, Model]

    def of(self, request: Request) -> Opened:
        """The model of a request."""
        return self.each[request.model or DEFAULT].opened

    def target(self, folder: str, request: Request) -> Target:
        """The output of a request in `folder`.

        Raises:
            Rejected: its model or its adapter has left the settings since it was accepted.
        """
        model = self.each.get(request.model or DEFAULT)
        if model is None or request.adapter not in (None, *model.opened.adapters):
            what = f"adapters.{request.adapter}" if model else f"models.{request.model}"
            raise Rejected(Reason.INVALID_REQUEST, f"generate.{what} is no longer in the settings")
        return model.opened.target(folder, request)

    def limits(self, media: str) -> Limits:
        """Those of the default model, with those of the others; relative media are in `media`."""
        limits = {
            name: Limits(model.settings, model.opened.card.patching, media, model.opened.sampling)
            for name, model in self.each.items()
        }
        return replace(limits.pop(DEFAULT), others=limits)

    @property
    def identities(self) -> list[str]:
        """What identifies each with its adapters."""
        models = [(name, model.opened) for name, model in sorted(self.each.items())]
        return [part for name, of in models for part in (name, of.maker.identity, *of.adapted.values())]


def open_models(settings: Settings) -> Models:
    """The models that the settings name. An adapter is for each model that it fits.

    Raises:
        Missing, Mistake: as `opened`, of any of them; or an adapter fits none.
    """
    each = {name: open_model(settings, name) for name in (DEFAULT, *settings.generate.models)}
    for adapter in settings.generate.adapters:
        if not any(adapter in model.opened.adapters for model in each.values()):
            each[DEFAULT].opened.with_adapters({adapter: settings.generate.adapters[adapter]})  # says why
    return Models(each)


def open_model(settings: Settings, name: str) -> Model:
    """The model of this name, as it is now in its folder; raises as `opened`."""
    own = settings.generate
    without = own.model_copy(update={"model": own.models.get(name, own.model), "adapters": {}})
    if name != DEFAULT:
        without = without.model_copy(update={"guidance_2": None})
    try:
        found = opened(settings.model_copy(update={"generate": without}))
    except (Missing, Mistake) as error:
        raise type(error)(f"generate.models.{name}: {error}") from None if name else error
    fitting = {key: places for key, places in own.adapters.items() if _fits(found, key, places)}
    found = found.with_adapters(fitting)
    update: dict[str, Any] = {"adapters": fitting}
    if found.sampling.boundary is not None:
        update["guidance_2"] = own.guidance_2
    return Model(found, without.model_copy(update=update))


def _fits(found: Opened, name: str, places: tuple[str, ...]) -> bool:
    try:
        found.with_adapters({name: places})
    except Mistake:
        return False
    return True


class Newest:
    """The models of a service, each as its folder holds it now: with another checkpoint without a restart.

    A changed model replaces an earlier one once two checks in a row have seen the same, so that none is used
    while its files are written, and only if it takes the same latents, text and adapters: the app's other
    parts go on. Requests that were accepted before are finished with the model that they were accepted for.
    """

    def __init__(
        self, settings: Settings, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`say` gets a line for each model that is replaced, or cannot be."""
        self._settings, self._say, self._clock = settings, say, clock
        self._lock = threading.Lock()
        self._models = open_models(settings)
        self._seen: dict[str, str] = {}
        self._looked = clock()

    @property
    def models(self) -> Models:
        """Those that new requests are for; reads the folders at most every `generate.follow_s` seconds."""
        every_s = self._settings.generate.follow_s
        if every_s is None:
            return self._models
        with self._lock:
            if self._clock() - self._looked >= every_s:
                self._look()
                self._looked = self._clock()
            return self._models

    async def made(
        self, request: Request, folder: str, send: Callable[[Request, Target], Awaitable[Any]]
    ) -> Any:
        """What `send`, the app's ingress, answers for a request whose output is to be in `folder`.

        It is sent again if its model was replaced before any replica had loaded it.
        """
        for _ in range(_SENT):
            models = await asyncio.to_thread(lambda: self.models)
            answer = await send(request, models.target(folder, request))
            follow_s = self._settings.generate.follow_s
            if follow_s is None or not (isinstance(answer, Rejected) and answer.doubtful):
                break
            await asyncio.sleep(follow_s)
        return answer

    def _look(self) -> None:
        for name, model in self._models.each.items():
            try:
                now = open_model(self._settings, name)
            except Exception as error:  # it may be half written, or the store away
                self._told(name, f"cannot be read: {in_a_line(error)}")
                continue
            identity = now.opened.maker.identity
            if identity == model.opened.maker.identity:
                self._seen.pop(name, None)
            elif why := _differs(model.opened, now.opened):
                self._told(name, f"was replaced by one with another {why}; start the service again to use it")
            elif self._seen.get(name) != identity:
                self._seen[name] = identity
            else:
                self._models = Models({**self._models.each, name: now})
                self._say(f"{now.opened.maker.folder}: step {now.opened.maker.step} from now on")

    def _told(self, name: str, what: str) -> None:
        if self._seen.get(name) != what:
            self._seen[name] = what
            self._say(f"the model in {self._models.each[name].opened.maker.folder} {what}")


def _differs(one: Opened, other: Opened) -> str | None:
    """What an app for `one` would have to be started again for."""
    parts = {
        "codec or text encoder": lambda of: of.card.encode,
        "patch size": lambda of: (of.card.model.patch, of.card.channels, of.card.text_dim),
        "sampling": lambda of: of.sampling,
        "set of adapters": lambda of: dict(of.adapted),
    }
    return next((name for name, part in parts.items() if part(one) != part(other)), None)
