"""What data consists of: the figures of its page."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitascope import storage
from vitascope.clips.filters import Filter, beyond
from vitascope.encode.fingerprint import latents_folder
from vitascope.model.formats.start import sized
from vitascope.model.networks import cost_of
from vitascope.report import words
from vitascope.report.dataset import Bools, Dataset, Floats, counts, is_in, numbers
from vitascope.report.fill import Packing, Samples, packing
from vitascope.report.spread import Histogram, aspects, histogram, of

_TEXT_LENGTHS = (0.0, 0.5, 1.0)  # quantiles of the captions that are shown whole


@dataclass(frozen=True)
class Part:
    """A selection of the data: how many items, files, and tokens it has, and of what duration."""

    name: str
    number: int
    seconds: float
    files: int = 0
    tokens: int = 0


def funnel(data: Dataset, samples: Samples) -> tuple[Part, ...]:
    """Files, those that can be used, clips, those that are kept, samples."""
    seconds = np.nan_to_num(numbers(data.videos, "duration_s")) * data.good_videos
    of_samples, tokens = data.seconds[samples.clip].sum(), int(samples.tokens.sum())
    return (
        Part("files found", len(data.videos), 0),
        Part("files that can be used", int(data.good_videos.sum()), seconds.sum()),
        Part("clips cut of them", len(data.clips), data.seconds.sum()),
        Part("clips kept", int(data.good.sum()), data.seconds[data.good].sum()),
        Part("samples" + " planned" * samples.planned, len(samples.clip), of_samples, tokens=tokens),
    )


def splits(data: Dataset, samples: Samples) -> list[Part]:
    """What is trained on, and what is held out."""
    parts = []
    for name in ("train", "val"):
        mine = data.good & is_in(data.clips, "split", name)
        files = pc.count_distinct(data.clips["video_id"].filter(pa.array(mine))).as_py()
        tokens = int(samples.tokens[mine[samples.clip]].sum())
        parts.append(Part(name, int(mine.sum()), data.seconds[mine].sum(), files, tokens))
    return parts


@dataclass(frozen=True)
class Plot:
    """Items by value: how many have each, or a histogram; None if none has one."""

    title: str
    values: Mapping[str, int] | Histogram | None
    label: str
    unit: str


def files_and_clips(data: Dataset) -> tuple[dict[str, int], list[Plot]]:
    """Usable files by kind; by codec, frame rate, duration and size; clips by size and aspect ratio."""
    good = data.videos.filter(pa.array(data.good_videos))
    videos = good.filter(pa.array(is_in(good, "kind", "video")))
    sides = [pc.cast(data.clips[name], pa.string()) for name in ("width", "height")]
    sizes = counts(pc.binary_join_element_wise(*sides, "×"))
    ratios = aspects(data.numbers("width"), data.numbers("height"))
    made = [
        Plot("Files by codec", counts(good["codec"]), "codec", "files"),
        Plot("Videos by frame rate", counts(pc.round(videos["fps"], 2)), "frames per second", "files"),
        Plot("Videos by duration", _all(numbers(videos, "duration_s")), "seconds", "files"),
        Plot("Files by size", _all(numbers(good, "size_bytes") / 1e6), "MB", "files"),
        Plot("Clips by size", sizes, "width × height", "clips"),
        Plot("Clips by aspect ratio", ratios, "ratio", "clips"),
    ]
    return counts(good["kind"]), [plot for plot in made if plot.values]


def _all(values: Floats) -> Histogram | None:
    return histogram(values, np.ones(len(values), bool), {})


@dataclass(frozen=True, eq=False)
class Judged:
    """What a filter goes by, of each clip (N,), and which clips are kept now (N,)."""

    name: str
    rule: Filter
    values: Floats
    good: Bools

    @cached_property
    def bins(self) -> Histogram | None:
        """None if no clip has a value."""
        return histogram(self.values, self.good, self.rule.limits)

    @cached_property
    def out(self) -> Bools:
        """(N,) whether a clip is beyond the limits."""
        return beyond(self.values, self.rule.limits)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """How many clips have a value, between which ends, and how many are beyond the limits."""
        known, kept = np.isfinite(self.values), np.isfinite(self.values) & self.good
        ends = (f"{value:.4g}" for value in np.quantile(self.values[known], (0, 0.5, 1)))
        rows = [("clips that have it", f"{known.sum():,}"), ("least, median, greatest", ", ".join(ends))]
        if self.rule.limits:
            then = "and so dropped" if self.rule.use == "drop" else "and not dropped"
            rows.append((f"beyond the limits, {then}", of(self.out.sum(), known.sum())))
        if self.rule.limits and self.rule.use == "score":
            rows.append(("of the clips kept now", of((self.out & self.good).sum(), kept.sum())))
        return rows

    @property
    def setting(self) -> str:
        """The filter as a line of the settings."""
        parts = [f'use = "{self.rule.use}"', *(f"{key} = {n:g}" for key, n in self.rule.limits.items())]
        return f"{self.name} = {{{', '.join(parts)}}}"


def judged(data: Dataset, name: str, rule: Filter) -> Judged:
    """What the filter goes by; images have no duration."""
    values = data.numbers(name)
    if name == "duration_s":
        values = np.where(data.numbers("n_frames") > 1, data.seconds, np.nan)
    return Judged(name, rule, values, data.good)


@dataclass(frozen=True)
class Captions:
    """The captions of the clips that are kept.

    Args:
        clips, captioned, distinct, sampled: numbers of clips, of those with a caption, of different captions,
            and of captions whose terms and languages are counted.
        lengths, tokens: histograms of words a caption, and of text tokens a sample.
        cut: fraction of the samples at the most text tokens; None without samples.
        terms, languages: how many captions have each; no languages (None) without the detector.
        whole: the shortest, the median and the longest, after their number of words.
        repeated: those of several files, and of how many.
    """

    clips: int
    captioned: int
    distinct: int = 0
    sampled: int = 0
    lengths: Histogram | None = None
    tokens: Histogram | None = None
    cut: float | None = None
    terms: Mapping[str, int] | None = None
    languages: Mapping[str, int] | None = None
    whole: tuple[tuple[int, str], ...] = ()
    repeated: Mapping[str, int] | None = None


def captions(data: Dataset) -> Captions:
    """How many clips have one, how long, of which words, in which languages, and which are repeated."""
    clips = data.clips.filter(pa.array(data.good))
    column, n_words = clips["caption"], words.lengths(clips["caption"])
    captioned = int((n_words > 0).sum())
    if not captioned:
        return Captions(len(clips), 0)
    texts, n_text = words.sample(column), numbers(data.samples, "n_text")
    order = np.argsort(np.where(n_words > 0, n_words, np.inf), kind="stable")[:captioned]
    rows = [order[round(q * (captioned - 1))] for q in _TEXT_LENGTHS]
    return Captions(
        len(clips),
        captioned,
        distinct=pc.count_distinct(column).as_py(),
        sampled=len(texts),
        lengths=_all(n_words[n_words > 0]),
        tokens=_all(n_text),
        cut=float((n_text >= data.settings.encode.max_text_tokens).mean()) if len(n_text) else None,
        terms=words.terms(texts),
        languages=words.languages(texts),
        whole=tuple((int(n_words[row]), column[row].as_py()) for row in rows),
        repeated=words.repeated(column, clips["video_id"]),
    )


def packs(data: Dataset) -> Packing | None:
    """How full the packs of the first steps are, if there are samples to train on."""
    if not is_in(data.samples, "split", "train").any():
        return None
    facts = storage.read_json(storage.join(latents_folder(data.settings), "encode.json"))
    model = sized(data.settings.model)
    return packing(data.settings, model.patch, cost_of(model, facts["channels"], facts["text_dim"]))
