"""The README's account of requests is the code's own."""

import json
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic_core import PydanticUndefined

from vitascope.encode.buckets import Patching
from vitascope.encode.settings import STRIDES
from vitascope.generate.parse import Limits, parse
from vitascope.generate.request import MEDIA, OPTIONAL, Mode, Request
from vitascope.generate.settings import GenerateSettings

PATCHING = Patching(STRIDES["dct"], patch=2)

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
SECTION = README.partition("## Requests")[2].partition("\n## ")[0]
DEFAULTS = ("steps", "guidance", "guidance_2", "quality", "solver", "shift", "chunk_frames")
BY_MODE = {
    field: f"`{default}`" for fields in OPTIONAL.values() for field, default in fields.items() if default
}
FROM_SETTINGS = {"seed": "from `custom_id`"} | {name: f"generate.{name}" for name in DEFAULTS} | BY_MODE


def row(name: str) -> str:
    """The table's row of a field, from its declaration."""
    field = Request.model_fields[name]
    bounds = {type(m).__name__: m for m in field.metadata}
    low, high = getattr(bounds.get("Ge"), "ge", None), getattr(bounds.get("Le"), "le", None)
    length = getattr(bounds.get("MaxLen"), "max_length", None)
    above, below = getattr(bounds.get("Gt"), "gt", None), getattr(bounds.get("Lt"), "lt", None)
    values = f"{low:,} to {high:,}" if high else f"at most {length:,} characters" if length else ""
    values = f"above {above}, below {below}" if above is not None else values
    named = {
        "seed": "0 to 2⁶³ - 1",
        "mode": "a mode, below",
        "keep": "a list, below",
        "guidance_interval": "two noise levels",
    }
    choices = [f"`{choice}`" for choice in get_args(field.annotation)]
    if get_origin(field.annotation) is Literal:
        named[name] = f"{', '.join(choices[:-1])} or {choices[-1]}"
    values = named.get(name, values)
    default = "required" if field.default is PydanticUndefined else f"`{json.dumps(field.default)}`"
    default = FROM_SETTINGS.get(name, "" if field.default is None else default)
    default = f"`{default}`" if default.startswith("generate.") else default
    return f"| `{name}` | {values} | {default} | {field.description} |"


@pytest.mark.parametrize("name", Request.model_fields)
def test_every_field_has_its_row(name: str) -> None:
    assert row(name) in SECTION


def test_no_row_is_of_another_field() -> None:
    fields = re.findall(r"^\| `(\w+)` \| .* \| .* \| ", SECTION, re.MULTILINE)
    assert sorted(fields) == sorted(Request.model_fields)


@pytest.mark.parametrize("mode", Mode)
def test_every_mode_has_its_row_and_media(mode: Mode) -> None:
    media = ", ".join(f"`{field}`" for field in MEDIA[mode])
    assert f"| `{mode}` | {media} |" in SECTION


def test_the_examples_are_requests() -> None:
    limits = Limits(GenerateSettings(max_tokens=10**6), patching=PATCHING, folder="/media")
    examples = re.findall(r"^    (\{.*\})$", SECTION, re.MULTILINE)
    modes = {parse(line, limits).kind for line in examples}
    assert modes == {"image", *(str(mode) for mode in Mode)}


def test_the_settings_it_names_are_there() -> None:
    named = set(re.findall(r"`generate\.(\w+)`", SECTION))
    assert named <= GenerateSettings.model_fields.keys()
    assert {"requests", "model", "media_from", "batch", "max_frames", "max_pixels"} <= named
