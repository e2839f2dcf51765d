"""Base of every settings section, with helpful errors."""

import difflib
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from vitascope import credentials
from vitascope.wording import short


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys and suggests the nearest one.

    Each stage keeps its own subclass next to the code that reads it (`clips/settings.py` and so on);
    `vitascope.config` composes them.
    """

    renamed: ClassVar[Mapping[str, Callable[[Any], str]]] = {}
    """Keys of earlier releases: what to write now for a value of such a key."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            wrong = [cls._unknown(key, value) for key, value in data.items() if key not in cls.model_fields]
            if wrong:
                raise ValueError("\n".join(wrong))
            if large := [key for key, value in data.items() if _exceeds_64_bits(value)]:
                raise ValueError(f"{large[0]} is a number of more than 64 bits; make it smaller")
        return data

    @classmethod
    def _unknown(cls, key: object, value: object) -> str:
        if key in cls.renamed:
            return f"unknown key {key!r}; it is now {cls.renamed[str(key)](value)}"
        return unknown_key(str(key), list(cls.model_fields))


def _exceeds_64_bits(value: Any) -> bool:
    """TOML's whole numbers have 64 bits; Python's are unbounded, and long ones cannot even be printed."""
    if isinstance(value, list | tuple):
        return any(map(_exceeds_64_bits, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def unknown_key(key: str, known: list[str]) -> str:
    """Says that `key` is unknown, and which known key was probably meant."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {credentials.redacted(shown(key))}; {hint}"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80
_MOST_SHOWN = 199  # and the ellipsis


def shown(value: object) -> str:
    """`value` in an error message: its repr, shortened in the middle to at most 200 characters.

    The value may be long or deep on purpose.
    """
    try:
        text = _SHORT.repr(value)
    except ValueError:  # more digits than Python turns into text
        return "a number of thousands of digits"
    return short(text, _MOST_SHOWN)


_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^}]*)\})")
_LOCATION = "location"


def located(place: str) -> str:
    """A location with `~`, `~name`, `$NAME` and `${NAME}` replaced as a shell does it.

    The name of an existing local file or folder is not changed.

    Raises:
        ValueError: it is empty, or names an unknown user or variable.
    """
    if "\0" in place:
        raise ValueError("holds a NUL character; no file has such a name")
    if not place.strip():
        raise ValueError("is empty; name a file or folder, or leave the key out")
    home = place.partition("/")[0] == "~"
    if not home and os.path.lexists(place):
        return place
    return _with_home(_VARIABLE.sub(_value_of, place))


def _value_of(variable: re.Match[str]) -> str:
    name = variable[1] or variable[2]
    if not os.environ.get(name):
        raise ValueError(f"names {variable[0]}, and the environment has no {name}; set it, or write it out")
    return os.environ[name]


def _with_home(place: str) -> str:
    if not place.startswith("~"):
        return place
    whole = os.path.expanduser(place)
    if whole.startswith("~"):
        user = place.partition("/")[0]
        raise ValueError(f"begins with {user}, and that home folder is not known here; write it out")
    return whole


Location = Annotated[str, AfterValidator(located), _LOCATION]
"""A local path, or a URI of a store, of a file or folder that settings name."""

_T = TypeVar("_T")
_EXECUTION = "execution"
Execution = Annotated[_T, _EXECUTION]
"""A setting that affects only placement and speed: another value gives the same results."""


def decides(section: type[Section]) -> set[str]:
    """The fields of a section that decide the results; the others are Execution."""
    return {name for name, field in section.model_fields.items() if _EXECUTION not in field.metadata}


def is_location(annotation: Any) -> bool:
    """Whether a field of this type holds a Location, or several."""
    return annotation is not None and (
        _LOCATION in getattr(annotation, "__metadata__", ()) or any(map(is_location, get_args(annotation)))
    )
