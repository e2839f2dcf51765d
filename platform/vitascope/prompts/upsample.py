"""A prompt in more words."""

import inspect
import logging
from collections.abc import Callable
from functools import partial

from vitascope import storage
from vitascope.caption.settings import CaptionSettings
from vitascope.clips.hooks import load
from vitascope.errors import Mistake, in_a_line
from vitascope.ledger import Reason, Rejected
from vitascope.prompts.settings import PromptsSettings
from vitascope.records import stable_id
from vitascope.section import decides

_MOST_CHARS = 10_000  # of a request's prompt

Rewrite = Callable[[str], object]


def identity(settings: PromptsSettings) -> str:
    """A hash of what decides the rewritten prompts; empty if none is."""
    if settings.upsample == "off":
        return ""
    others = {"filter", "filter_options", "frames"}
    return stable_id(settings.model_dump_json(include=decides(PromptsSettings) - others))


class Upsampler:
    """Rewrites prompts, each once: results are kept in a folder, and used by all who ask for them."""

    def __init__(self, settings: PromptsSettings, folder: str) -> None:
        """Loads the model, or the function.

        Raises:
            Mistake: there is none.
        """
        self._settings, self._folder, self._identity = settings, folder, identity(settings)
        self._rewrite = rewriter(settings)

    def __call__(self, prompt: str) -> str:
        """The prompt to use; of attempts that race, all return the same.

        Raises:
            Rejected: GENERATION_FAILED, unless the settings ask for the original.
        """
        place = storage.join(self._folder, f"{stable_id(self._identity, prompt)}.json")
        if (kept := _kept(place, prompt)) is not None:
            return kept
        made = self._rewritten(prompt)
        if isinstance(made, Rejected):
            if self._settings.on_failure == "refuse":
                raise Rejected(Reason.GENERATION_FAILED, f"the prompt cannot be rewritten: {made.detail}")
            logging.getLogger("ray.serve").warning("A prompt is used as it was asked: %s", made.detail)
            return prompt
        storage.create(place, storage.json_bytes({"prompt": prompt, "used": made}))
        return _kept(place, prompt) or made

    def _rewritten(self, prompt: str) -> str | Rejected:
        try:
            made = self._rewrite(prompt)
        except Exception as error:  # of a function, or an endpoint that is down or refuses the key
            return Rejected(Reason.GENERATION_FAILED, in_a_line(error))
        if isinstance(made, Rejected):
            return made
        if not isinstance(made, str) or not made.strip() or len(made) > _MOST_CHARS:
            got = f"{len(made)} characters" if isinstance(made, str) else type(made).__name__
            return Rejected(Reason.GENERATION_FAILED, f"expected 1 to {_MOST_CHARS:,} characters, got {got}")
        return made.strip()


def rewriter(settings: PromptsSettings) -> Rewrite:
    """What rewrites a prompt.

    Raises:
        Mistake: no such model or function, or options that it does not take.
    """
    if settings.upsample == "endpoint":
        from vitascope.caption.endpoint import Endpoint

        return partial(_asked, Endpoint(_asking(settings, "endpoint"), "prompts"), settings.instruction)
    if settings.upsample == "local":
        from vitascope.prompts.local import TextModel

        model = TextModel(_asking(settings, "folder"))
        model._load()
        return partial(_asked, model, settings.instruction)
    return function(settings.upsample, settings.options, "prompts.upsample")


def function(name: str, options: dict[str, str | float], setting: str) -> Callable[[str], object]:
    """The function `module:function` of a prompt, with its options.

    Raises:
        Mistake: there is none, or it does not take a prompt and these options; names the setting.
    """
    try:
        found = load(name)
        inspect.signature(found).bind("", **options)
    except (TypeError, ValueError) as error:
        raise Mistake(f"{setting} = {name!r} cannot be used: {error}") from error
    return partial(found, **options)


def _asking(settings: PromptsSettings, source: str) -> CaptionSettings:
    """The settings of those who ask models for captions."""
    same = (
        *("endpoint", "endpoint_model", "endpoint_options", "max_tokens_name", "max_tokens", "timeout_s"),
        *("retries", "folder", "use_gpu"),
    )
    return CaptionSettings(source=source, **{key: getattr(settings, key) for key in same})


def _asked(model: object, instruction: str, prompt: str) -> str | Rejected:
    (answer,) = model.ask([([], f"{instruction}\n\n{prompt}")])  # type: ignore[attr-defined]
    return answer


def _kept(place: str, prompt: str) -> str | None:
    """What was kept for a prompt; None if nothing was."""
    try:
        document = storage.read_json(place)
    except FileNotFoundError:
        return None
    return str(document["used"]) if document.get("prompt") == prompt else None
