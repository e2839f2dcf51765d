"""One HTML file that shows a run's data.

In: the tables that the clips and the encode stage have committed; what the encode stage has not made yet is
planned from the settings. Out: `{run}/data.html`, which opens offline.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np

from vitascope import storage
from vitascope.clips.filters import Filter, Filters
from vitascope.config import Settings
from vitascope.ledger import Reason
from vitascope.progress import say
from vitascope.report import charts, content, page
from vitascope.report.chosen import FACTS, MOVING, Chosen, Group, choose, copied, groups, key, wanted
from vitascope.report.dataset import Dataset, Floats, is_in, numbers, read
from vitascope.report.fill import Samples, samples_of
from vitascope.report.page import Share
from vitascope.report.spread import beyond, histogram, limits_of, share
from vitascope.report.thumbnails import Thumbnail, thumbnails
from vitascope.stages.registry import Summary
from vitascope.stages.running import running
from vitascope.wording import short

FILE = "data.html"
_DUPLICATES = {
    "keep": "Duplicates are kept",
    "exact": "Of clips of files with the same bytes one is kept",
    "near": "Of clips that show the same one is kept, whatever their compression, size, crop and timing",
}
_NONE = Thumbnail(detail="no picture")
_MOST_OF_PATH, _MOST_OF_DETAIL = 120, 90

Pictures = Mapping[str, Thumbnail]


def run(settings: Settings) -> Summary:
    """Writes data.html into the run's folder; returns how many pictures were made for it and how many failed.

    Raises:
        Missing: the clips stage has not been run.
    """
    with running(settings, "data") as summary:
        data = read(settings)
        chosen = choose(data)
        pictures = thumbnails(wanted(data, chosen), settings)
        storage.put(settings.path(FILE), render(data, chosen, pictures))
        say("data", settings.path(FILE))
        failed = sum(picture.still is None for picture in pictures.values())
        summary |= {"pictures": len(pictures), "not_decoded": failed}
    return summary


def render(data: Dataset, chosen: Chosen, pictures: Pictures) -> bytes:
    """The page as one HTML document that opens offline.

    Args:
        pictures: of the rows of `chosen.wanted`, by `chosen.key`.
    """
    samples = samples_of(data)
    parts: dict[str, Callable[[], tuple[str, ...]]] = {
        "Overview": lambda: _overview(data, samples),
        "What was dropped": lambda: _dropped(data, chosen, pictures),
        "Scores and limits": lambda: _scores(data, chosen, pictures),
        "Files and clips": lambda: content.facts(data),
        "Sources": lambda: content.shares(data, samples),
        "Duplicates": lambda: _duplicates(data, chosen, pictures),
        "Captions": lambda: content.captions(data),
        "Buckets": lambda: content.buckets(data, samples),
    }
    folder = short(data.settings.run.folder, _MOST_OF_PATH)
    missing = (page.absent(f"{location} {why}") for location, why in data.missing.items())
    body = [f"<h1>The data of {page.text(folder)}</h1>", *missing, page.contents(parts)]
    for title, make in parts.items():
        body.append(page.guarded("data", title, functools.partial(_part, title, make)))
    return page.page(f"Vitascope, data of {folder}", body).encode()


def _part(title: str, make: Callable[[], tuple[str, ...]]) -> str:
    return page.section(title, *make())


def _overview(data: Dataset, samples: Samples) -> tuple[str, ...]:
    """Figures, and what is left after each step."""
    file_s = float(np.nansum(numbers(data.videos, "duration_s")[data.good_videos]))
    clip_s = data.seconds[data.good].sum()
    n_files, n_usable = len(data.videos), int(data.good_videos.sum())
    n_clips, n_kept, n_samples = len(data.clips), int(data.good.sum()), len(samples.clip)
    planned = " planned" * samples.planned
    rows = [
        ("files found", n_files, "", ""),
        ("files that can be used", n_usable, Share(share(n_usable, n_files)), content.duration(file_s)),
        ("clips cut of them", n_clips, "", content.duration(data.seconds.sum())),
        ("clips kept", n_kept, Share(share(n_kept, n_clips)), content.duration(clip_s)),
        (f"samples{planned}", n_samples, "", content.duration(data.seconds[samples.clip].sum())),
    ]
    tiles = {
        f"of {n_files:,} files can be used": f"{share(n_usable, n_files):.1%}",
        f"of {n_clips:,} clips are kept": f"{share(n_kept, n_clips):.1%}",
        f"samples{planned}": f"{n_samples:,}",
        f"tokens{planned}": f"{int(samples.tokens.sum()):,}",
    }
    about = "Clips are cut of files and may overlap; a clip becomes a sample in one size or in several."
    if samples.planned:
        about += " The encode stage has not been run with these settings: its samples are planned here."
    panels = {
        "What is left": page.table(("", "number", "of those before", "film"), rows),
        "Training and held out": content.split(data, samples),
    }
    return about, page.tiles(tiles), page.notes(data.notes), page.panels(panels)


def _dropped(data: Dataset, chosen: Chosen, pictures: Pictures) -> tuple[str, ...]:
    found = groups(data)
    rows = [
        (g.stage, page.bad(g.reason), len(g.rows), Share(share(len(g.rows), g.whole)), g.details[0].as_py())
        for g in found
    ]
    about = (
        "By reason, with examples. Shares are of the files, of the clips cut, of the captions asked for, "
        "and, where it is samples, of the clips kept."
    )
    if not found:
        return about, "<p>Nothing was dropped.</p>"
    panels = {
        f"{group.reason}: {len(group.rows):,} of {group.whole:,} {group.stage}": _group(
            data, group, some, pictures
        )
        for group, some in chosen.drops
    }
    table = page.table(("of", "reason", "dropped", "share", "for example"), rows)
    return about, table, "<br>", page.panels(panels)


def _group(data: Dataset, group: Group, rows: list[int], pictures: Pictures) -> str:
    table = data.videos if group.table == "videos" else data.clips
    where = {row: i for i, row in enumerate(group.rows.tolist())}
    shown = []
    for row in rows:
        name, detail = table["name"][row].as_py(), group.details[where[row]].as_py()
        shown_name = page.text(short(name, content.MOST_OF_NAME))
        caption = f"{shown_name}<small>{page.text(detail, _MOST_OF_DETAIL)}</small>"
        media = _picture(pictures.get(key(group.table, row), _NONE))
        shown.append(page.example(media, caption, about=f"{name}: {detail}"))
    return page.examples(shown)


def _picture(thumbnail: Thumbnail, label: str = "", *, moving: bool = False) -> str:
    picture = (moving and thumbnail.moving) or thumbnail.still
    return page.medium(picture, ".webp", label) if picture else page.nothing(thumbnail.detail)


def _scores(data: Dataset, chosen: Chosen, pictures: Pictures) -> tuple[str, ...]:
    used = dict(data.settings.clips.filters.used())
    about = (
        "Each over all clips that have it, also those that were dropped. The examples are the clips at 1, "
        "10, 25, 50, 75, 90 and 99 % of them by rising score, and the nearest to either side of a limit, "
        "where any are beyond; framed are those beyond. Point at a picture to enlarge it. Limits are "
        "settings, [clips.filters]: run again with others, `vitascope clips` decodes nothing."
    )
    if off := [name for name in Filters.model_fields if name not in used]:
        about += f" Off, and so without a score: {', '.join(off)}."
    facts = {name: "".join(_limits(data, name, used[name])) for name in used if name in FACTS}
    scores = [
        _score(data, name, used[name], _examples(data, name, chosen, pictures)) for name in chosen.scores
    ]
    return about, *scores, page.panels(facts)


def _score(data: Dataset, name: str, rule: Filter, shown: str) -> str:
    beside = "".join(f"<div>{half}</div>" for half in _limits(data, name, rule))
    return f'<div class="panel score"><h3>{name}</h3><div class="beside">{beside}</div>{shown}</div>'


def _limits(data: Dataset, name: str, rule: Filter) -> tuple[str, str]:
    """How what a filter goes by is spread, and what its limits drop."""
    values, limits = _values(data, name), limits_of(rule)
    bins = histogram(values, data.good, limits)
    if bins is None:
        return "<p>No clip has it.</p>", ""
    out, there = beyond(values, limits), np.isfinite(values)
    ends = ", ".join(f"{value:.4g}" for value in np.quantile(values[there], (0, 0.5, 1)))
    facts = [("clips that have it", f"{there.sum():,}"), ("least, median, greatest", ends)]
    if limits:
        dropped = ", and so dropped" if rule.use == "drop" else ", and not dropped"
        facts.append((f"beyond the limits{dropped}", _of(out.sum(), there.sum())))
    if limits and rule.use == "score":
        facts.append(("of the clips kept now", _of((out & data.good).sum(), (there & data.good).sum())))
    setting = ", ".join([f'use = "{rule.use}"', *(f"{side} = {limit:g}" for side, limit in limits.items())])
    about = page.text(Filters.model_fields[name].description)
    code = f"<code>{page.text(f'{name} = {{{setting}}}')}</code>"
    chart = charts.histogram(bins, limits, name, "clips")
    return chart, f"<p>{about}<br>{code}</p>{page.table(('', ''), facts)}"


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({share(part, whole):.2%})"


def _values(data: Dataset, name: str) -> Floats:
    """What a filter goes by, of each clip; images have no duration."""
    if name == "duration_s":
        return np.where(data.numbers("n_frames") > 1, data.seconds, np.nan)
    return data.numbers(name)


def _examples(data: Dataset, name: str, chosen: Chosen, pictures: Pictures) -> str:
    out = beyond(_values(data, name), limits_of(getattr(data.settings.clips.filters, name)))
    shown = []
    for example in chosen.scores[name]:
        clip = data.clips.slice(example.row, 1).to_pylist()[0]
        value, reason = f"{clip[name]:.4g}", clip["reason"]
        at = f"{clip['name']}, {clip['start_s']:g} to {clip['end_s']:g} s, {name} {value}"
        why = f"; {reason}: {clip['detail']}" if reason else ""
        media = _picture(pictures.get(key("clips", example.row), _NONE), moving=name in MOVING)
        lines = f"<b>{value}</b><small>{page.text(example.label)}</small>"
        caption = lines + f"<small>{page.bad(reason) if reason else ''}</small>"
        shown.append(page.example(media, caption, about=at + why, out=bool(out[example.row])))
    return page.examples(shown)


def _duplicates(data: Dataset, chosen: Chosen, pictures: Pictures) -> tuple[str, ...]:
    n = int(is_in(data.clips, "reason", str(Reason.DUPLICATE)).sum())
    rule = _DUPLICATES[data.settings.clips.duplicates]
    about = f"{rule} (clips.duplicates). Dropped: {_of(n, len(data.clips))}."
    if not n:
        return (about,)
    shown = []
    for copy, twin in chosen.twins:
        names = [data.clips["name"][row].as_py() for row in (copy, twin)]
        media = (
            _picture(pictures.get(key("clips", row), _NONE), label)
            for row, label in ((copy, "dropped"), (twin, "kept"))
        )
        detail = data.clips["detail"][copy].as_py()
        caption = f"{page.text(short(names[0], content.MOST_OF_NAME))}<small>{page.text(detail)}</small>"
        shown.append(page.example("".join(media), caption, about=f"{names[0]}: {detail}"))
    panels = {
        "Examples": page.examples(shown, pairs=True),
        "Files with most copies": page.bars(copied(data), "kept file", "clips dropped", n),
    }
    return about, page.panels(panels)
