"""One HTML file that shows a run's data.

In: the tables that the clips and the encode stage have committed; what the encode stage has not made yet is
planned from the settings. Out: `{run}/data.html`, which opens offline.
"""

from collections.abc import Mapping

from vitascope import storage
from vitascope.clips.filters import Filters
from vitascope.config import Settings
from vitascope.ledger import Reason
from vitascope.progress import say
from vitascope.report import content, page
from vitascope.report.chosen import FACTS, MOVING, Chosen, choose, copied, key, wanted
from vitascope.report.dataset import Dataset, is_in, read, row_of
from vitascope.report.fill import Samples, fills, samples_of
from vitascope.report.page import Bad, Medium, Share
from vitascope.report.sources import sources
from vitascope.report.spread import share
from vitascope.report.thumbnails import Thumbnail, thumbnails
from vitascope.stages.registry import Summary
from vitascope.stages.running import running
from vitascope.wording import short

FILE = "data.html"
_NONE = Thumbnail(detail="no picture")

Pictures = Mapping[str, Thumbnail]


def run(settings: Settings) -> Summary:
    """Writes data.html into the run's folder; returns how many pictures were made for it and how many failed.

    Raises:
        Missing: the clips stage has not been run.
    """
    with running(settings, "data") as summary:
        data = read(settings, data_only=True)
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
    samples, folder = samples_of(data), short(data.settings.run.folder, page.MOST_OF_PATH)
    parts: dict[str, page.Part] = {
        "Overview": lambda: (data, content.funnel(data, samples), content.splits(data, samples)),
        "What was dropped": lambda: _dropped(data, chosen, pictures),
        "Scores and limits": lambda: _scores(data, chosen, pictures),
        "Files and clips": lambda: content.files_and_clips(data),
        "Sources": lambda: (sources(data, samples),),
        "Duplicates": lambda: _duplicates(data, chosen, pictures),
        "Captions": lambda: (content.captions(data), data.settings.encode.max_text_tokens),
        "Buckets": lambda: _buckets(data, samples),
    }
    links = [(page.anchor(title), title) for title in parts]
    title = f"Vitascope, data of {folder}"
    return page.render("data.html", title, lambda: (folder, data.missing, links), parts)


def _picture(pictures: Pictures, table: str, row: int, *, moving: bool = False) -> Medium:
    return Medium.of(pictures.get(key(table, row), _NONE), moving=moving)


def _dropped(data: Dataset, chosen: Chosen, pictures: Pictures) -> tuple[object, ...]:
    rows = [
        (g.stage, Bad(g.reason), len(g.rows), Share(share(len(g.rows), g.whole)), g.details[0].as_py())
        for g in chosen.groups
    ]
    names = {"videos": data.videos["name"], "clips": data.clips["name"]}
    groups = [
        (g, [(names[g.table][row].as_py(), why, _picture(pictures, g.table, row)) for row, why in g.shown])
        for g in chosen.shown
    ]
    return rows, groups


def _scores(data: Dataset, chosen: Chosen, pictures: Pictures) -> tuple[object, ...]:
    used = dict(data.settings.clips.filters.used())
    of_clips = {name: content.judged(data, name, rule) for name, rule in used.items()}
    scores = []
    for name, examples in chosen.scores.items():
        shown = [_picture(pictures, "clips", e.row, moving=name in MOVING) for e in examples]
        clips = [row_of(data.clips, e.row) for e in examples]
        scores.append((of_clips[name], list(zip(examples, clips, shown, strict=True))))
    about = {name: field.description for name, field in Filters.model_fields.items()}
    return (
        about,
        [name for name in about if name not in used],
        scores,
        [of_clips[name] for name in FACTS if name in used],
    )


def _duplicates(data: Dataset, chosen: Chosen, pictures: Pictures) -> tuple[object, ...]:
    n_dropped = int(is_in(data.clips, "reason", Reason.DUPLICATE).sum())
    pairs = [
        (row_of(data.clips, pair[0]), [_picture(pictures, "clips", row) for row in pair])
        for pair in chosen.duplicates
    ]
    files = copied(data) if n_dropped else {}
    return data.settings.clips.duplicates, n_dropped, len(data.clips), pairs, files


def _buckets(data: Dataset, samples: Samples) -> tuple[object, ...]:
    return samples, fills(data, samples), content.packs(data), data.settings.feed
