"""The clips of a file, from its catalog row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from vitascope.clips.analysis import cut, letterbox
from vitascope.clips.analysis.cut import Span
from vitascope.clips.analysis.scores import judge, scores
from vitascope.clips.analysis.series import Series, of_row
from vitascope.clips.analysis.shots import shots
from vitascope.clips.dedup.joins import thin
from vitascope.clips.filters import HOOKS, SCORES
from vitascope.clips.index import captions
from vitascope.clips.settings import ClipsSettings
from vitascope.clips.table import Row
from vitascope.ledger import Reason, Rejected, Status
from vitascope.media.clip import CROP, Clip
from vitascope.media.geometry import WHOLE, Crop
from vitascope.records import OK, Outcome, dropped, stable_id

Texts = tuple[dict[str, str], str]
"""The captions of a file by field, and why it has none."""


@dataclass(frozen=True)
class Source:
    """The file of a clip: columns of series.CATALOG."""

    content: str
    video_id: str
    uri: str
    name: str
    version: str
    kind: str
    decoder: str

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Source":
        """The file of a row of series.CATALOG."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class CutClip:
    """A clip of a file: its span, its scores, and whether it is kept.

    width, height: of the picture within `crop`. hashes: those that near duplicates are found by, flat.
    """

    source: Source
    span: Span
    fps: float
    width: int
    height: int
    crop: Crop = WHOLE
    scores: Mapping[str, float] = field(default_factory=dict)
    hashes: Sequence[int] | np.ndarray | None = None
    captions: Mapping[str, str] | None = None
    caption: str | None = None
    outcome: Outcome = field(default_factory=lambda: OK)

    @cached_property
    def clip_id(self) -> str:
        """Stable when the file moves."""
        return stable_id(self.source.video_id, self.span.start_s, self.span.n_frames, self.fps)

    @property
    def is_good(self) -> bool:
        """Whether nothing has dropped it so far."""
        return self.outcome == OK

    @property
    def clip(self) -> Clip:
        """The frames, to be read."""
        source, span = self.source, self.span
        place = (span.start_s, self.fps, span.n_frames)
        return Clip(source.uri, source.decoder, *place, crop=self.crop, version=source.version)

    def as_row(self) -> Row:
        """The row of table.CLIPS, with the columns of duplicates.FOUND_BY; its split is a placeholder."""
        crop = (self.crop.left, self.crop.top, self.crop.width, self.crop.height)
        own = {"clip_id": self.clip_id, "fps": self.fps, "width": self.width, "height": self.height}
        texts = {"captions": self.captions, "caption": self.caption}
        return {
            **vars(self.source),
            **vars(self.span),
            **own,
            **dict(zip(CROP, crop, strict=True)),
            **self.scores,
            **texts,
            **self.outcome,
            "hashes": self.hashes,
            "split": "train",
        }


def clips_of(video: Row, settings: ClipsSettings) -> list[CutClip]:
    """The clips of a row of series.CATALOG, with their scores; only damaged ones are dropped here."""
    if video["status"] != Status.OK:
        return []
    series, source = of_row(video), Source.of_row(video)
    spans = list(_spans(video, series, settings))
    good = [span for span, outcome in spans if outcome == OK]
    scored = scores(series, good, settings.filters, settings.fps)
    of_span = {span: {name: v[i] for name, v in scored.items()} for i, span in enumerate(good)}
    bars = _bars(series) if settings.letterbox == "crop" else {}
    clips = []
    for span, outcome in spans:
        if outcome != OK:
            lost = CutClip(source, span, settings.fps, video["width"], video["height"], outcome=outcome)
            clips.append(lost)
            continue
        frames = _of_span(series, span, settings.fps)
        height, width = frames["sides"][0].tolist()
        crop = letterbox.letterbox(frames, bars[height, width]) if bars else WHOLE
        *_, own_width, own_height = crop.pixels(width, height)
        clips.append(
            CutClip(
                source,
                span,
                settings.fps,
                own_width,
                own_height,
                crop,
                scores={name: float(v) for name, v in of_span[span].items() if np.isfinite(v)},
                hashes=thin(frames["copy_hashes"], frames["contrast"] * np.float32(255)).ravel(),
            )
        )
    return clips


def _spans(video: Row, series: Series, settings: ClipsSettings) -> Iterator[tuple[Span, Outcome]]:
    """The spans of every shot, and damaged spans, which are dropped. A change of size is a cut too."""
    lengths = (settings.fps, settings.durations_s, settings.every_s)
    sides = series["sides"]  # 0 of damaged frames
    edges = np.r_[0, np.flatnonzero(np.diff(sides, axis=0).any(axis=1)) + 1, len(sides)]
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if sides[begin].all():
            part = {name: values[begin:end] for name, values in series.items()}
            in_part = shots(part, settings.shots, settings.fps)
            moved = [(begin + first, begin + last) for first, last in in_part]
            yield from ((span, OK) for span in cut.spans(moved, *lengths))
        else:
            yield _lost(begin, end, settings.fps, f"{end - begin} of its frames are damaged")
    expected = cut.steps(video["said_s"] or video["duration_s"], settings.fps) + 1
    if expected - len(sides) > cut.steps(min(settings.durations_s), settings.fps):
        what = f"its frames end before {len(sides) / settings.fps:.2f} s"
        yield _lost(len(sides), expected, settings.fps, what)


def _bars(series: Series) -> dict[tuple[int, int], Crop]:
    """The letterbox of all frames of each size (height, width)."""
    sides = series["sides"]
    return {
        (height, width): letterbox.letterbox(
            {k: v[(sides == (height, width)).all(axis=1)] for k, v in series.items()}
        )
        for height, width in np.unique(sides, axis=0).tolist()
    }


def _lost(begin: int, end: int, fps: float, what: str) -> tuple[Span, Outcome]:
    return Span(begin / fps, (end - 1) / fps, end - begin), dropped(Reason.DECODE_FAILED, what)


def _of_span(series: Series, span: Span, fps: float) -> Series:
    first = round(span.start_s * fps)
    return {name: values[first : first + span.n_frames] for name, values in series.items()}


def settled(clips: list[CutClip], texts: Mapping[str, Texts], settings: ClipsSettings) -> list[CutClip]:
    """The clips with their captions; those beyond the limits, or without a caption, are dropped.

    `texts` are the captions of every file, by name. A clip that a filter drops needs no caption.
    """
    verdicts = iter(judge(_judged_by([clip for clip in clips if clip.is_good], settings), settings.filters))
    return [_settled(clip, next(verdicts), texts, settings) if clip.is_good else clip for clip in clips]


def _judged_by(clips: list[CutClip], settings: ClipsSettings) -> dict[str, np.ndarray]:
    """The columns that filters judge by, (N,) each."""
    names = [name for name, _ in settings.filters.used() if name in {*SCORES, *HOOKS}]
    sizes = {name: np.array([getattr(clip, name) for clip in clips]) for name in ("width", "height")}
    spans = {n: np.array([getattr(clip.span, n) for clip in clips]) for n in ("start_s", "end_s", "n_frames")}
    scored = {n: np.array([clip.scores.get(n, np.nan) for clip in clips], np.float32) for n in names}
    return sizes | spans | scored


def _settled(
    clip: CutClip, verdict: tuple[str, str] | None, texts: Mapping[str, Texts], settings: ClipsSettings
) -> CutClip:
    if min(clip.width, clip.height) < settings.min_side_px:
        within = f"{clip.width}x{clip.height} within its bars"
        outcome = dropped(Reason.TOO_SMALL, f"{within}, clips.min_side_px is {settings.min_side_px}")
        return replace(clip, outcome=outcome)
    if verdict:
        return replace(clip, outcome=dropped(*verdict))
    by_field, why_none = texts[clip.source.name]
    own = {name: by_field[name] for name in settings.caption_fields if name in by_field}
    try:
        if not own:
            raise Rejected(Reason.NO_CAPTION, why_none)
        caption = own[captions.draw(own, settings.caption_fields, clip.clip_id)]
        return replace(clip, captions=own, caption=caption)
    except Rejected as rejected:
        return replace(clip, captions=own, outcome=dropped(rejected.reason, rejected.detail))
