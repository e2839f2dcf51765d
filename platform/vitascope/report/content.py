"""What data consists of: parts of its page."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitascope import storage
from vitascope.encode.fingerprint import latents_folder
from vitascope.model.cost import cost_of
from vitascope.report import charts, page, words
from vitascope.report.dataset import Dataset, Floats, is_in, labels, numbers
from vitascope.report.fill import Samples, fills
from vitascope.report.packing import packing
from vitascope.report.page import Html, Share
from vitascope.report.sources import Sources, sources
from vitascope.report.spread import aspects, histogram, share
from vitascope.wording import count, short

MOST_OF_NAME = 40
"""Characters of a file's name under its picture, and beside a bar."""

_MOST_BARS, _MOST_ROWS, _MOST_NAMED = 10, 24, 5
_TEXT_LENGTHS = (0.0, 0.5, 1.0)  # quantiles of the captions that are shown whole


def duration(seconds: float) -> str:
    """A time as a person says it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def facts(data: Dataset) -> tuple[str, ...]:
    """Files by codec, frame rate, length and size; clips by size and aspect ratio."""
    good, clips = data.videos.filter(pa.array(data.good_videos)), data.clips
    film = good.filter(pa.array(is_in(good, "kind", "video")))
    sides = [pc.cast(clips[name], pa.string()) for name in ("width", "height")]
    kinds = _counts(good["kind"])
    plots = {
        "Files by codec": _bars(_counts(good["codec"]), "codec", "files"),
        "Videos by frame rate": _bars(_counts(pc.round(film["fps"], 2)), "frames per second", "files"),
        "Videos by length": _spread(numbers(film, "duration_s"), "seconds", "files"),
        "Files by size": _spread(numbers(good, "size_bytes") / 1e6, "MB", "files"),
        "Clips by size": _bars(_counts(pc.binary_join_element_wise(*sides, "×")), "width × height", "clips"),
        "Clips by aspect ratio": _bars(
            aspects(data.numbers("width"), data.numbers("height")), "ratio", "clips"
        ),
    }
    made = ", ".join(count(n, kind) for kind, n in kinds.items()) or "none"
    about = f"Files that can be used: {made}. Clips are those cut of them, kept or not."
    return about, page.panels({title: plot for title, plot in plots.items() if plot})


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    names, which = labels(column)
    found = np.bincount(which[which >= 0], minlength=len(names))
    return {
        f"{name:g}" if isinstance(name, float) else str(name): int(n)
        for name, n in zip(names, found, strict=True)
    }


def _bars(counts: dict[str, int], what: str, unit: str) -> str:
    """Bars of the most frequent, and what is left as one."""
    if not counts:
        return ""
    shown = dict(list(counts.items())[:_MOST_BARS])
    total = sum(counts.values())
    if len(counts) > len(shown):
        shown[f"{len(counts) - len(shown):,} others"] = total - sum(shown.values())
    return page.bars(shown, what, unit, total)


def _spread(values: Floats, label: str, unit: str) -> str:
    bins = histogram(values, np.ones(len(values), bool), {})
    return charts.histogram(bins, {}, label, unit) if bins else ""


def shares(data: Dataset, samples: Samples) -> tuple[str, ...]:
    """Each source's share of what went in and of what comes out, and those that stand out."""
    found = sources(data, samples)
    what = (
        "top-level folder" if found.by == "folder" else "file, as there are no folders to tell them apart by"
    )
    about = (
        f"A source is a {what}; there are {len(found.names):,}. An equal share is "
        f"{100 * found.equal:.2g} %. The input is counted in seconds of the files that can be used, or in "
        "files where those have none. Tokens are those of all samples, held-out ones too."
    )
    rows = [
        (
            _source(found.names[i]),
            int(found.files[i]),
            int(found.clips[i]),
            *(
                Share(column[i])
                for column in (found.input_share, found.clip_share, found.second_share, found.token_share)
            ),
            page.bar(float(found.token_share[i] / max(found.token_share.max(), 1e-9))),
        )
        for i in found.order[:_MOST_ROWS].tolist()
    ]
    head = ("source", "files", "clips kept", "of the input", "of clips", "of film", "of tokens", "")
    more = f"<p>And {len(found.names) - len(rows):,} more.</p>" if len(found.names) > len(rows) else ""
    return about, _standing_out(found), "<br>", page.table(head, rows), more


def _standing_out(found: Sources) -> str:
    said = {
        "Over-represented": (found.over, "twice an equal share of the tokens or more"),
        "Under-represented": (found.under, "half of an equal share or less"),
        "Lost on the way": (found.lost, "half of its share of the input or less, or no clip kept"),
    }
    lines = []
    for title, (rows, rule) in said.items():
        names = ", ".join(
            f"{_source(found.names[i])} ({found.token_share[i]:.1%})" for i in rows[:_MOST_NAMED]
        )
        more = f" and {len(rows) - _MOST_NAMED:,} more" if len(rows) > _MOST_NAMED else ""
        lines.append((page.text(title), names + more or "none", rule))
    return page.table(("", "", "by"), lines)


def _source(name: str) -> str:
    return short(name, MOST_OF_NAME) or "(no folder)"


def captions(data: Dataset) -> tuple[str, ...]:
    """How many clips have one, how long, of which words, in which languages, and which are repeated."""
    clips = data.clips.filter(pa.array(data.good))
    n_words = words.lengths(clips["caption"])
    there = int((n_words > 0).sum())
    if not there:
        return ("No clip that is kept has a caption.",)
    texts = words.sample(clips["caption"])
    of = f" in a sample of {len(texts):,}" if there > len(texts) else ""
    told = words.languages(texts)
    repeated = words.repeated(clips["caption"], clips["video_id"])
    distinct = pc.count_distinct(clips["caption"]).as_py()
    about = (
        f"Clips that are kept: {len(clips):,}; with a caption: {there:,} ({share(there, len(clips)):.1%}); "
        f"different captions: {distinct:,}."
    )
    panels = {
        "Words a caption": _spread(n_words[n_words > 0], "words", "clips"),
        "Text tokens a sample": _tokens(data),
        f"Terms, by captions that have them{of}": page.bars(
            words.terms(texts), "term", "captions", len(texts)
        ),
        f"Languages{of}": _bars(told, "language", "captions")
        if told is not None
        else '<p>Not told: pip install "vitascope[languages]".</p>',
        "Shortest, median and longest": _whole(clips["caption"], n_words),
        "Captions of several files": page.table(("caption", "files"), list(repeated.items()))
        if repeated
        else "",
    }
    return about, page.panels({title: panel for title, panel in panels.items() if panel})


def _tokens(data: Dataset) -> str:
    """What the text encoder makes of captions, against the most it takes."""
    if not len(data.samples):
        return ""
    n_text, most = numbers(data.samples, "n_text"), data.settings.encode.max_text_tokens
    cut = share((n_text >= most).sum(), len(n_text))
    about = f"<p>At the limit, encode.max_text_tokens = {most}, and so perhaps cut: {cut:.1%}.</p>"
    return _spread(n_text, "text tokens", "samples") + about


def _whole(column: pa.ChunkedArray, n_words: npt.NDArray) -> str:
    order = np.argsort(np.where(n_words > 0, n_words, np.inf), kind="stable")[: (n_words > 0).sum()]
    rows = [order[round(q * (len(order) - 1))] for q in _TEXT_LENGTHS]
    return page.table(
        ("words", "caption"), [(int(n_words[row]), Html(page.text(column[row].as_py()))) for row in rows]
    )


def split(data: Dataset, samples: Samples) -> str:
    """What is trained on, and what is held out."""
    rows = []
    for name in ("train", "val"):
        mine = data.good & is_in(data.clips, "split", name)
        files = pc.count_distinct(data.clips["video_id"].filter(pa.array(mine))).as_py()
        tokens = samples.tokens[mine[samples.clip]].sum()
        part = Share(share(tokens, samples.tokens.sum()))
        rows.append((name, files, int(mine.sum()), duration(data.seconds[mine].sum()), int(tokens), part))
    return page.table(("", "files", "clips", "film", "tokens", "of tokens"), rows)


def buckets(data: Dataset, samples: Samples) -> tuple[str, ...]:
    """What each bucket holds, what it keeps of its clips, and how full packs get."""
    found = fills(data, samples)
    about = (
        "As frames × height × width. Pixels: what crop and scale leave of the clips' frames. Cropped: of "
        "their area. Sides: how long they are, of the clips'. Film: of the clips' time."
    )
    if samples.planned:
        about += f" Planned, as these settings give them; clips without a bucket: {samples.unfit:,}."
    if not found:
        return (about,)
    *each, whole = found
    rows = [
        (
            fill.bucket,
            fill.samples,
            Share(share(fill.samples, whole.samples)),
            fill.tokens,
            Share(share(fill.tokens, whole.tokens)),
            Share(fill.pixels),
            Share(1 - fill.view),
            Share(fill.side),
            Share(fill.seconds),
        )
        for fill in (whole, *each[:_MOST_ROWS])
    ]
    head = ("bucket", "samples", "of samples", "tokens", "of tokens", "pixels", "cropped", "sides", "film")
    more = f"<p>And {len(each) - _MOST_ROWS:,} more.</p>" if len(each) > _MOST_ROWS else ""
    tokens = _bars({fill.bucket: fill.tokens for fill in each}, "bucket", "tokens")
    return about, page.table(head, rows), more, page.panels({"Tokens by bucket": tokens} | _packs(data))


def _packs(data: Dataset) -> dict[str, str]:
    """How full the packs of the first steps are, if there are samples to train on."""
    if not is_in(data.samples, "split", "train").any():
        return {}
    facts = storage.read_json(storage.join(latents_folder(data.settings), "encode.json"))
    cost = cost_of(data.settings.model, facts["channels"], facts["text_dim"])
    packed, budget = packing(data.settings, data.samples, cost), data.settings.feed.token_budget
    full = packed.tokens.sum() / (packed.tokens.size * budget)
    packs = count(packed.tokens.shape[1], "pack")
    about = f"<p>Full to {full:.1%}. A step is {packs} of {count(budget, 'token')}.</p>"
    return {"Packs of the first steps": charts.pack_tokens(packed.tokens, budget) + about}
