"""One HTML file that shows what a run did."""

import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from vitascope import config, storage
from vitascope.config import Settings
from vitascope.ledger import Rejected, Status
from vitascope.media.clip import Clip
from vitascope.media.probe import probe
from vitascope.model.networks import cost_of
from vitascope.progress import say
from vitascope.report import accounting, data, page
from vitascope.report.accounting import Figures, NotAccounted
from vitascope.report.dataset import Dataset, Row, dropped, is_in, read
from vitascope.report.fill import Packing, packing
from vitascope.report.page import Bad, Medium
from vitascope.report.spread import share
from vitascope.report.thumbnails import Wanted, looks
from vitascope.wording import short

MOST_VIDEOS, MOST_SOURCES, MOST_ROWS = 48, 24, 300  # more would make a page that browsers open slowly
MOST_MEDIUM_BYTES = 16 << 20
_MOST_SIZES, _MOST_CURVES, _MOST_OF_SETTINGS, _MOST_PICTURES = 24, 12, 40_000, 4


def run(settings: Settings) -> Figures:
    """Writes summary.json, whose content it returns, and report.html about the stages that have ended.

    Raises:
        Missing: no stage has.
        NotAccounted: something went in and neither came out nor was dropped; both files say what.
    """
    found = read(settings)
    summary = accounting.figures(found)
    storage.put_json(settings.path("summary.json"), summary)
    storage.put(settings.path("report.html"), render(found, summary))
    for location, why in found.missing.items():
        say("report", f"{location} {why}")
    say("report", settings.path("report.html"))
    if lines := summary.get("not_accounted"):
        raise NotAccounted("; ".join(lines))
    return summary


def render(run: Dataset, figures: Figures) -> bytes:
    """The report as one HTML document that opens offline; a part that cannot be shown says why.

    Args:
        figures: the document of summary.json, from `accounting.figures`.
    """
    folder, ended = short(run.settings.run.folder, page.MOST_OF_PATH), run.summaries.keys()
    parts: dict[str, tuple[set[str], page.Part]] = {
        "Generated": ({"generate"}, lambda: _generated(run)),
        "What went in": ({"clips"}, lambda: _went_in(run)),
        "How it was packed": ({"train", "encode"}, lambda: _packed(run, figures)),
        "Training": ({"train"}, lambda: _training(run, figures)),
        "The ledger": ({"clips", "encode", "generate"}, lambda: _ledger(run, figures)),
        "Settings": (set(ended), lambda: (_toml(run.settings),)),
    }
    shown = {title: make for title, (stages, make) in parts.items() if stages & ended}
    n_held_out = figures.get("samples_val", 0)
    held_out = share(n_held_out, figures.get("samples_train", 0) + n_held_out)
    title = f"Vitascope: {run.settings.run.folder}"
    return page.render("report.html", title, lambda: (folder, run, figures, held_out), shown)


@dataclass(frozen=True)
class Output:
    """An output as the report shows it: its manifest row, and what its sidecar says.

    before, after: a picture of each part of its media, and of that at its end. strip: the fractions of its
    frames that are generated and conditioning frames, in turn. problem: why the sidecar cannot be read.
    """

    row: Row
    medium: Medium
    prompt: str = ""
    seed: int | None = None
    before: Sequence[Medium] = ()
    after: Medium | None = None
    strip: tuple[float, ...] = ()
    problem: str = ""


def _generated(run: Dataset) -> tuple[list[Output], int]:
    made = run.manifest.filter(pa.array(is_in(run.manifest, "status", Status.OK)))
    return [_output(row) for row in made.slice(0, MOST_VIDEOS).to_pylist()], len(made)


def _output(row: Row) -> Output:
    medium = _medium(row)
    try:
        sidecar = storage.read_json(posixpath.splitext(row["uri"])[0] + ".json")
        folder = posixpath.dirname(row["uri"])
        pictures = {
            piece["end"]: _picture(storage.join(folder, piece["picture"]))
            for piece in sidecar.get("conditioning", ())
        }
        return Output(
            row,
            medium,
            prompt=str(sidecar["prompt"]),
            seed=sidecar["seed"],
            before=[pictures[end] for end in pictures if end != "last"][:_MOST_PICTURES],
            after=pictures.get("last"),
            strip=_strip(sidecar.get("given") or {"spans": []}, row["n_frames"]),
        )
    except Exception as error:  # whatever a sidecar that is gone or damaged leads to
        return Output(row, medium, problem=f"Its sidecar cannot be read ({type(error).__name__}: {error})")


def _strip(given: Row, n_frames: int) -> tuple[float, ...]:
    ends = [[0, given.get("first", 0)], [n_frames - given.get("last", 0), n_frames]]
    spans = given.get("spans", ends)  # of earlier releases
    edges = [0, *(edge for span in spans for edge in span), n_frames]
    parts = tuple((end - begin) / n_frames for begin, end in pairwise(edges))
    return parts if any(parts[1::2]) else ()


def _picture(location: str) -> Medium:
    try:
        return Medium(storage.read_bytes(location), ".jpg")
    except FileNotFoundError:
        return Medium(None, why="no picture")


def _medium(row: Row) -> Medium:
    """An output as it plays, or why it does not: its last frame is decoded to know."""
    try:
        facts = probe(row["uri"])
        if (facts.width, facts.height) != (row["width"], row["height"]):
            is_now = f"{facts.width}×{facts.height}"
            return Medium(None, why=f"The file has been replaced: it is {is_now} now.")
        at_s = (row["n_frames"] - 1) / row["fps"] if row["n_frames"] > 1 else 0.0
        Clip(row["uri"], facts.decoder, start_s=at_s).frames()
        if (n_bytes := storage.size_bytes(row["uri"])) > MOST_MEDIUM_BYTES:
            return Medium(None, why=f"{n_bytes / 1e6:,.0f} MB are too many for this page.")
        return Medium(storage.read_bytes(row["uri"]), posixpath.splitext(row["uri"])[1])
    except Rejected as rejected:
        return Medium(None, why=f"The output cannot be shown: {rejected.detail}")
    except Exception as error:
        return Medium(None, why=f"The output cannot be shown: {type(error).__name__} {error}")


def _went_in(run: Dataset) -> tuple[object, ...]:
    sizes = {str(size): n for size, n in accounting.samples_by_size(run).items()}
    page_exists = storage.exists(run.settings.path(data.FILE))
    first_sizes = dict(list(sizes.items())[:_MOST_SIZES])
    return run, list(_files(run)), first_sizes, list(_sources(run)), data.FILE if page_exists else None


@dataclass
class _Fate:
    """The clips of a file: how many are kept, how many have samples, and why others were dropped."""

    kept: int = 0
    encoded: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def status(self, *, encoded: bool) -> str | Bad:
        """Ok, or that nothing came of the file, and why; `encoded`: whether the samples are known."""
        if self.encoded or (self.kept and not encoded):
            return str(Status.OK)
        nothing = "no sample came of it" if self.kept else "no clip is kept"
        why = ", ".join(f"{reason} {n}" for reason, n in self.reasons.most_common())
        return Bad(f"{nothing}: {why}" if why else nothing)


def _fates(run: Dataset) -> defaultdict[str, _Fate]:
    """The outcome of each file's clips, by video_id."""
    encoded, refused = set(run.samples["clip_id"].to_pylist()), defaultdict[str, set[str]](set)
    for clip_id, reason in _columns(run.drops, "clip_id", "reason"):
        refused[clip_id].add(reason)
    fates = defaultdict[str, _Fate](_Fate)
    for video_id, clip_id, reason in _columns(run.clips, "video_id", "clip_id", "reason"):
        fate = fates[video_id]
        fate.kept += reason is None
        fate.encoded += clip_id in encoded
        fate.reasons.update([reason] if reason else refused.get(clip_id, ()))
    return fates


def _columns(table: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _files(run: Dataset) -> Iterator[tuple[object, ...]]:
    fates = _fates(run)
    for row in run.videos.slice(0, MOST_ROWS).to_pylist():
        fate = fates[row["video_id"]]
        status = Bad(row["reason"]) if row["status"] != Status.OK else fate.status(encoded=run.encoded)
        size = f"{row['width']}×{row['height']}" if row["width"] else ""
        length = f"{row['duration_s']:.1f} s" if row["duration_s"] else ""
        yield row["name"], size, length, row["codec"], fate.kept, status


def _sources(run: Dataset) -> Iterator[tuple[Row, Medium]]:
    """The last clip of each file."""
    rows = np.flatnonzero(run.good)
    last = dict(zip(run.clips["video_id"].take(pa.array(rows)).to_pylist(), rows.tolist(), strict=True))
    clips = run.clips.take(pa.array(list(last.values())[:MOST_SOURCES], pa.int64())).to_pylist()
    pictures = looks(map(Wanted, clips), run.settings.clips.decode_timeout_s)
    return zip(clips, map(Medium.of, pictures), strict=True)


def _packed(run: Dataset, figures: Figures) -> tuple[Packing | None, object, Figures, str]:
    feed, card = run.settings.feed, run.card
    if card is None or not figures.get("samples_train"):
        why = "the model's card cannot be read" if card is None else "the run has no sample to train on"
        return None, feed, figures, why
    cost = cost_of(card.model, card.channels, card.text_dim)
    return packing(run.settings, card.model.patch, cost), feed, figures, ""


def _training(run: Dataset, figures: Figures) -> tuple[object, ...]:
    curves = {row["size"]: row["loss"] for row in run.losses.get("by_size", [])[:_MOST_CURVES]}
    return run, figures, run.summaries["train"].get("n_parameters"), curves


def _ledger(run: Dataset, figures: Figures) -> tuple[object, ...]:
    tables = {"probe": run.videos, "clips": run.clips, "encode": run.drops}
    lost = [(stage, *row) for stage, table in tables.items() for row in _drops(table, "name")]
    n_lost, refused = sum(len(dropped(table)) for table in tables.values()), dropped(run.manifest)
    return run, figures, lost[:MOST_ROWS], n_lost, _drops(refused, "line", "custom_id"), len(refused)


def _drops(table: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    """The first drops of a table: these columns, reason and detail."""
    rows = dropped(table).slice(0, MOST_ROWS).to_pylist()
    return [(*(row[name] for name in names), Bad(row["reason"]), row["detail"]) for row in rows]


def _toml(settings: Settings) -> str:
    lines = (short(line, page.MOST_SHOWN) for line in config.to_toml(settings).splitlines())
    return short("\n".join(lines), _MOST_OF_SETTINGS)
