"""The report's HTML pieces and its style."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from vitascope.progress import say
from vitascope.wording import short

MOST_SHOWN = 600
"""Characters of a prompt, a caption or a path that a page shows; a prompt may have a million."""

MOST_IN_CELL = 200
_MOST_ABOUT, _MOST_TITLE, _MOST_ON_A_LINE = 4_000, 120, 16

STYLE = """
:root { color-scheme: light dark; --bg: #fbfbfa; --card: #fff; --ink: #1d2127; --soft: #667080;
  --line: #e3e5e8; --accent: #2563eb; --bad: #b3411f; --limit: #f08c2e; }
@media (prefers-color-scheme: dark) { :root { --bg: #111418; --card: #191d23; --ink: #e6e8eb; --soft: #97a1b0;
  --line: #2b313a; --accent: #7aa7ff; --bad: #ff9a76; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
body { overflow-wrap: anywhere; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 24px 60px; }
@media (max-width: 600px) { main { padding: 20px 14px 40px; } table.wide { min-width: 540px; } }
h1 { font-size: 26px; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 44px 0 4px; }
p { margin: 4px 0 12px; color: var(--soft); max-width: 78ch; }
.tiles { display: grid; gap: 12px; margin: 20px 0; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); }
.tile, figure, .panel { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 22px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); gap: 14px; }
.panel { padding: 12px 14px; min-width: 0; }
.panel h3 { font-size: 14px; margin: 0 0 6px; }
.chart { width: 100%; height: auto; display: block; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px; }
.gallery.small { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
figure { margin: 0; overflow: hidden; }
@media (min-width: 600px) { figure.wide { grid-column: span 2; } }
@media (max-width: 600px) { .gallery:not(.small) { grid-template-columns: 1fr; } }
.media { display: flex; height: 190px; background: #0b0d10; gap: 2px; justify-content: center; }
.small .media { height: 104px; }
.media > div { position: relative; display: flex; min-width: 0; flex: 0 1 auto; }
.media img, .media video { width: auto; max-width: 100%; height: 100%; object-fit: contain; min-width: 0; }
.media em { position: absolute; left: 6px; bottom: 5px; font: 600 11px system-ui; color: #fff;
  background: #000a; border-radius: 4px; padding: 1px 6px; }
.strip { display: flex; height: 5px; background: var(--line); }
.strip i { background: var(--accent); }
.strip u { flex: 1; }
figcaption { padding: 9px 12px 11px; font-size: 13.5px; }
figcaption small { display: block; color: var(--soft); font-size: 12px; }
figure > small { display: block; padding: 8px 12px 0; color: var(--soft); font-size: 12px; }
.words { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 4; overflow: hidden; }
.notes { margin: 4px 0 14px; padding-left: 20px; color: var(--soft); font-size: 13.5px; }
.tag { color: var(--accent); font-weight: 600; }
.scroll { overflow: auto; max-height: 380px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; color: var(--soft); font-weight: 500; }
th { position: sticky; top: 0; background: var(--card); }
th, td { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.s { white-space: nowrap; }
.bad, .absent { color: var(--bad); }
pre { overflow: auto; font-size: 12.5px; margin: 8px 0 0; }
summary { cursor: pointer; color: var(--soft); }
td { min-width: 7ch; }
td:has(.bad) { min-width: 15ch; }
td:has(.bar) { width: 34%; vertical-align: middle; }
.bar { display: block; height: 9px; border-radius: 2px; background: var(--accent); opacity: .75; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 0; font-size: 14px; }
a { color: var(--accent); text-decoration: none; }
.panel p { font-size: 13.5px; margin-bottom: 6px; }
.panels + .panels, .panel + .panels, .panels + .scroll, .scroll + .panels { margin-top: 14px; }
.score { margin-top: 14px; }
.beside { display: grid; gap: 4px 24px; }
.beside { grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
.examples { display: grid; gap: 8px; margin-top: 8px; }
.examples { grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); }
.examples.pairs { grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); }
.examples figure { border-radius: 6px; background: var(--bg); }
.examples .media { height: 84px; }
.examples.pairs .media { height: 120px; }
.examples .media > div { height: 100%; }
.examples figcaption { padding: 4px 7px 6px; font-size: 12.5px; overflow-wrap: anywhere; }
.examples figcaption small { font-size: 11px; line-height: 1.35; max-height: 4.05em; overflow: hidden; }
.examples .out { outline: 2px solid var(--limit); outline-offset: -1px; }
.examples figure:hover { overflow: visible; }
.examples figure:hover img { transform: scale(1.9); position: relative; z-index: 2; }
.none { color: #9aa4b2; font-size: 11px; line-height: 1.3; padding: 6px 8px; overflow: hidden; }
code { font-size: 12.5px; }
"""


class Html(str):
    """Text that is HTML already; any other text is escaped where it is put in."""

    __slots__ = ()


class Share(float):
    """A part of 1, shown in per cent."""


def text(value: object, most: int = MOST_SHOWN) -> str:
    """`value` as it may stand in HTML, cut short beyond `most` characters; nothing for None."""
    return value if isinstance(value, Html) else "" if value is None else escape(short(str(value), most))


def page(title: str, body: Iterable[str]) -> str:
    """A whole document that needs no other file."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title, _MOST_TITLE)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def section(title: str, about: str, *parts: str) -> str:
    """A headed part of the page, which `contents` links to."""
    top = f'<section id="{_anchor(title)}"><h2>{text(title)}</h2><p>{text(about, _MOST_ABOUT)}</p>'
    return f"{top}{''.join(parts)}</section>\n"


def guarded(label: str, title: str, make: Callable[[], str]) -> str:
    """What `make` gives; if it fails, a section that says why, since one damaged file must not cost the page.

    The failure is printed under `label`, too.
    """
    try:
        return make()
    except Exception as error:
        why = short(f"{type(error).__name__}: {error}", MOST_SHOWN)
        say(label, f"the part {title!r} is missing from the page ({why})")
        return section(title, "", absent(f"This part cannot be shown. {why}"))


def notes(lines: Iterable[str]) -> str:
    """What a stage chose in silence, a line each; nothing for none."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if items else ""


def absent(why: str) -> str:
    """A paragraph in place of something that cannot be shown."""
    return f'<p class="absent">{text(why)}</p>'


def contents(titles: Iterable[str]) -> str:
    """Links to sections."""
    links = (f'<a href="#{_anchor(title)}">{text(title)}</a>' for title in titles)
    return f"<nav>{''.join(links)}</nav>"


def _anchor(title: str) -> str:
    return "-".join(word for word in title.lower().split() if word.isalnum())


def tiles(figures: Mapping[str, object]) -> str:
    """Figures in large type, each over what it is."""
    cells = (f'<div class="tile"><b>{text(v)}</b><span>{text(k)}</span></div>' for k, v in figures.items())
    return f'<div class="tiles">{"".join(cells)}</div>'


def panels(contents: Mapping[str, str]) -> str:
    """Plots or tables beside each other, each under its title."""
    cells = (f'<div class="panel"><h3>{text(title)}</h3>{inner}</div>' for title, inner in contents.items())
    return f'<div class="panels">{"".join(cells)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table that scrolls within itself; numbers stand to the right, and short texts on one line."""
    lines = [list(row) for row in rows]
    marks = [_mark([row[i] for row in lines]) for i in range(len(head))]
    top = "".join(f"<th{mark}>{text(name)}</th>" for name, mark in zip(head, marks, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{_cell(v)}</td>" for v, mark in zip(row, marks, strict=True)) + "</tr>"
        for row in lines
    )
    wide = ' class="wide"' if len(head) >= 4 and head[-1] else ""
    return (
        f'<div class="scroll"><table{wide}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _mark(column: Sequence[object]) -> str:
    """How a column is set."""
    if _is_numeric(column):
        return ' class="n"'
    is_short = all(not isinstance(v, Html) and len(str(v)) <= _MOST_ON_A_LINE for v in column)
    return ' class="s"' if is_short else ""


def _is_numeric(column: Sequence[object]) -> bool:
    """Whether it holds numbers, and nothing beside but gaps."""
    return any(value != "" for value in column) and all(v == "" or isinstance(v, int | float) for v in column)


def _cell(value: object) -> str:
    if isinstance(value, Share):
        return f"{value:.1%}" if value >= 0.0005 or not value else "&lt;0.1%"
    if isinstance(value, float):
        return f"{value:,.2f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else _words(value)


def _words(value: object) -> str:
    """Text in a cell; if it is long, more of it is shown to whoever points at it."""
    if isinstance(value, Html) or len(str(value)) <= MOST_IN_CELL:
        return text(value)
    return f'<span title="{text(value)}">{text(value, MOST_IN_CELL)}</span>'


def bar(part: float) -> Html:
    """A bar as long as a part of 1."""
    return Html(f'<i class="bar" style="width:{part:.1%}"></i>')


def bars(counts: Mapping[str, float], what: str, unit: str, whole: float | None = None) -> str:
    """A bar for each name in `counts`, with its number and, of a `whole`, its share."""
    longest = max(counts.values(), default=0) or 1
    rows = []
    for name, count in counts.items():
        rows.append((name, count, *([Share(count / whole)] if whole else []), bar(count / longest)))
    return table((what, unit, *(["share"] if whole else []), ""), rows)


def bad(reason: str) -> Html:
    """A reason for a drop, marked."""
    return Html(f'<span class="bad">{text(reason, MOST_IN_CELL)}</span>')


def gallery(figures: Iterable[str], *, small: bool = False) -> str:
    """Figures in a grid."""
    return f'<div class="gallery{" small" if small else ""}">{"".join(figures)}</div>'


def figure(media: str, caption: str, strip: str = "", *, about: str = "") -> str:
    """Media over its caption, both HTML, and between them a strip, which makes it wide.

    `about` is shown to whoever points at it.
    """
    wide = ' class="wide"' if strip else ""
    top = f'<figure{wide} title="{text(about)}"><div class="media">{media}</div>'
    return f"{top}{strip}<figcaption>{caption}</figcaption></figure>"


def examples(figures: Iterable[str], *, pairs: bool = False) -> str:
    """Small figures in a row, or pairs of them."""
    return f'<div class="examples{" pairs" if pairs else ""}">{"".join(figures)}</div>'


def example(media: str, caption: str, *, about: str = "", out: bool = False) -> str:
    """Media over a caption, both HTML; framed if it is `out`. `about` is shown to who points at it."""
    top = f'<figure title="{text(about)}"{" class=out" if out else ""}><div class="media">{media}</div>'
    return f"{top}<figcaption>{caption}</figcaption></figure>"


def nothing(why: str) -> str:
    """Stands where a medium would, and says why there is none."""
    return f'<div class="none">{text(why)}</div>'


_MIME = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".mp4": "video/mp4"}


def medium(content: bytes, suffix: str, label: str = "") -> str:
    """A picture, or a video that plays by itself, carried within the page."""
    mime = _MIME[suffix]
    data = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    tag = (
        f'<video src="{data}" autoplay loop muted playsinline></video>'
        if suffix == ".mp4"
        else f'<img src="{data}" alt="">'
    )
    return f"<div>{tag}{f'<em>{text(label)}</em>' if label else ''}</div>"


def strip(before: float, after: float) -> str:
    """A line as long as a video, coloured where its frames were given: shares at its start and at its end."""
    return (
        f'<div class="strip"><i style="width:{before:.1%}"></i><u></u><i style="width:{after:.1%}"></i></div>'
    )
