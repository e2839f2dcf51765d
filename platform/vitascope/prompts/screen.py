"""Prompts and frames that are refused."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from vitascope.clips import hooks
from vitascope.clips.filters import HookFilter, beyond
from vitascope.errors import Mistake
from vitascope.ledger import Reason, Rejected
from vitascope.prompts import words
from vitascope.prompts.settings import PromptsSettings
from vitascope.prompts.upsample import function
from vitascope.section import shown

_AT_ONCE = 16
"""Frames of a call; others wait in memory meanwhile."""


class Screen:
    """Refuses prompts by the list of words, or by a function."""

    def __init__(self, settings: PromptsSettings) -> None:
        """Loads the function. Raises Mistake if there is none."""
        self._name = settings.filter
        own: dict[str, Callable[[str], object]] = {"off": lambda _: None, "list": words.found}
        self._why = own.get(self._name) or function(self._name, settings.filter_options, "prompts.filter")

    def check(self, prompt: str) -> None:
        """Raises Rejected, PROMPT_REFUSED with the reason; a Mistake if the function gives anything else."""
        why = self._why(prompt)
        if why is None:
            return
        if not isinstance(why, str):
            raise Mistake(f"prompts.filter = {self._name!r} gave {shown(why)}, expected a reason or None")
        raise Rejected(Reason.PROMPT_REFUSED, f"the prompt is refused ({self._name}): {why}")


def check(settings: PromptsSettings) -> None:
    """Loads all functions in use, before any work starts; Mistake if one cannot be used."""
    Screen(settings)
    if ":" in settings.upsample:
        function(settings.upsample, settings.options, "prompts.upsample")
    if settings.frames.use != "off":
        hook = settings.frames
        function(str(hook.function), hook.options, "prompts.frames.function")


def screened(frames: Iterable[np.ndarray], hook: HookFilter) -> Iterator[np.ndarray]:
    """The frames (H W 3, uint8), each after the hook has scored it; all pass if the hook is off.

    Raises:
        Rejected: FRAMES_REFUSED if a score is beyond the limits, or is none.
    """
    if hook.use == "off":
        yield from frames
        return
    group: list[np.ndarray] = []
    n_before = 0
    for frame in frames:
        group.append(frame)
        if len(group) == _AT_ONCE:
            yield from _passed(group, hook, n_before)
            n_before, group = n_before + len(group), []
    if group:
        yield from _passed(group, hook, n_before)


def _passed(group: list[np.ndarray], hook: HookFilter, n_before: int) -> list[np.ndarray]:
    scores = hooks.score(np.stack(group), hook)
    refused = np.flatnonzero(beyond(scores, hook.limits) | ~np.isfinite(scores))
    if len(refused):
        index, limits = refused[0], " and ".join(f"{key} {value:g}" for key, value in hook.limits.items())
        raise Rejected(
            Reason.FRAMES_REFUSED,
            f"frame {n_before + index} scores {scores[index]:.4g} by {hook.function}; allowed is {limits}",
        )
    return group
