"""HTML of the pages, from templates."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, Undefined
from markupsafe import Markup

from vitascope.progress import say
from vitascope.report import charts
from vitascope.report.spread import of, share
from vitascope.report.thumbnails import Thumbnail
from vitascope.wording import count, short

MOST_SHOWN = 600
"""Characters of a prompt, a caption or a path that a page shows; a prompt may have a million."""

MOST_OF_PATH = 120
_MOST_IN_CELL, _MOST_ON_A_LINE = 200, 16
_MIME = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".mp4": "video/mp4"}

Part = Callable[[], tuple[object, ...]]
"""What the macro of a part of a page takes."""


class Share(float):
    """A fraction of 1, shown in per cent."""


class Bar(float):
    """A fraction of 1, shown as a bar of that length."""


class Bad(str):
    """A reason for a drop, marked."""

    __slots__ = ()


@dataclass(frozen=True)
class Medium:
    """A picture or a video that the page carries; without `content`, `why` stands in its place."""

    content: bytes | None
    suffix: str = ".webp"
    why: str = ""

    @classmethod
    def of(cls, thumbnail: Thumbnail, *, moving: bool = False) -> "Medium":
        """The thumbnail; with `moving`, the moving one if it was made."""
        return cls((moving and thumbnail.moving) or thumbnail.still, why=thumbnail.detail)

    @property
    def data_uri(self) -> Markup:
        """The content as the page carries it."""
        return Markup(f"data:{_MIME[self.suffix]};base64,") + base64.b64encode(self.content or b"").decode()


def render(template: str, title: str, head: Part, parts: Mapping[str, Part]) -> bytes:
    """A whole document that needs no other file.

    A part is shown by the template's macro of its name: "What went in" by `what_went_in`, the beginning by
    `head`. A part that fails says why, since one damaged file must not cost the page; the failure is printed
    under the template's name, too.
    """
    macros = _ENVIRONMENT.get_template(template)
    sections = [(name, anchor(name), _shown(macros, name, make)) for name, make in parts.items()]
    top = _shown(macros, "head", head)
    return _ENVIRONMENT.get_template("page.html").render(title=title, head=top, sections=sections).encode()


def _shown(macros: Template, name: str, make: Part) -> Markup:
    try:
        return _macro(macros, anchor(name).replace("-", "_"))(*make())
    except Exception as error:
        why = short(f"{type(error).__name__}: {error}", MOST_SHOWN)
        label = str(macros.name).removesuffix(".html")
        say(label, f"the part {name!r} is missing from the page ({why})")
        parts = _ENVIRONMENT.get_template("parts.html")
        return _macro(parts, "absent")(f"This part cannot be shown. {why}")


def _macro(template: Template, name: str) -> Callable[..., Markup]:
    macro: Callable[..., Markup] = getattr(template.module, name)
    return macro


def anchor(title: str) -> str:
    """The name of a part in links."""
    return "-".join(word for word in title.lower().split() if word.isalnum())


def marks(rows: Sequence[Sequence[object]], n_columns: int) -> list[str]:
    """The class of each column of a table: `n` of numbers, which stand to the right, `s` of short texts."""
    return [_mark([row[i] for row in rows]) for i in range(n_columns)]


def _mark(column: Sequence[object]) -> str:
    filled = [value for value in column if value != ""]
    if filled and all(isinstance(value, int | float) and not isinstance(value, Bar) for value in filled):
        return "n"
    is_short = all(not isinstance(v, Bad | Bar | Markup) and len(str(v)) <= _MOST_ON_A_LINE for v in column)
    return "s" if is_short else ""


def number(value: object) -> object:
    """A number as people read it, anything else as it is."""
    if isinstance(value, Share):
        return f"{value:.1%}" if value >= 0.0005 or not value else "<0.1%"
    if isinstance(value, float):
        return f"{value:,.2f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else value


def bar_rows(counts: Mapping[str, float], whole: float | None) -> Iterator[tuple[object, ...]]:
    """A row for each name: its number, of a `whole` its percentage, a bar."""
    longest = max(counts.values(), default=0) or 1
    for name, n in counts.items():
        yield (name, n, *([Share(n / whole)] if whole else []), Bar(n / longest))


def most_frequent(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """The first of these counts, and the others as one."""
    shown = dict(list(counts.items())[:most])
    if len(counts) > most:
        shown[f"{len(counts) - most:,} others"] = sum(counts.values()) - sum(shown.values())
    return shown


def duration(seconds: float) -> str:
    """A time as a person says it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _cut(value: object) -> object:
    """What an expression in a template gives; text of any length is cut."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return short(value, MOST_SHOWN)
    return "" if value is None else value


def _formatted(value: object, spec: str = ",") -> str:
    """A number as `spec` says; a figure that is missing is named by the error."""
    return format(str(value) if isinstance(value, Undefined) else value, spec)


def _environment() -> Environment:
    loader = PackageLoader("vitascope.report")
    made = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=_cut, trim_blocks=True
    )
    made.filters |= {
        "bar_rows": bar_rows,
        "count": count,
        "duration": duration,
        "fmt": _formatted,
        "marks": marks,
        "most": most_frequent,
        "number": number,
        "short": lambda value, most: short("" if value is None else str(value), most),
    }
    made.tests |= {
        "bad": lambda value: isinstance(value, Bad),
        "bar": lambda value: isinstance(value, Bar),
        "long": lambda v: isinstance(v, str) and not isinstance(v, Markup) and len(v) > _MOST_IN_CELL,
    }
    made.globals |= {
        "charts": charts,
        "part": of,
        "share": lambda part, whole: Share(share(part, whole)),
        "bar": lambda part, longest: Bar(share(part, longest)),
    }
    return made


_ENVIRONMENT = _environment()
