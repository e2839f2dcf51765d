"""Base of every settings section, with helpful errors."""

import difflib
import reprlib
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys and names the nearest right one.

    Each stage keeps its own subclass beside the code that reads it (`clips/settings.py` and so on);
    `vitascope.config` composes them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(unknown_key(str(key), list(cls.model_fields)))
        return data


def unknown_key(key: str, known: list[str]) -> str:
    """Says that `key` is unknown, and which known key was probably meant."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {shown(key)}; {hint}"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80
_MOST_SHOWN = 200


def shown(value: object) -> str:
    """`value` as an error message shows it: its repr, shortened in the middle and never above 200 characters.

    Whoever made the value may have made it long or deep on purpose.
    """
    try:
        text = _SHORT.repr(value)
    except ValueError:  # more digits than Python turns into text
        return "a number of thousands of digits"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"
