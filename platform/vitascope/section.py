"""Base of every settings section, with helpful errors."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys and names the nearest right one.

    Each stage keeps its own subclass beside the code that reads it (`clips/settings.py` and so on);
    `vitascope.config` composes them.
    """

    renamed: ClassVar[Mapping[str, Callable[[Any], str]]] = {}
    """Keys of earlier releases: what to write now for a value of such a key."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key, value in data.items():
                if key in cls.renamed:
                    raise ValueError(f"unknown key {key!r}; it is now {cls.renamed[key](value)}")
                if key not in cls.model_fields:
                    raise ValueError(unknown_key(str(key), list(cls.model_fields)))
        return data


def unknown_key(key: str, known: list[str]) -> str:
    """Says that `key` is unknown, and which known key was probably meant."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {key!r}; {hint}"
