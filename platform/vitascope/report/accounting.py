"""The figures of summary.json, added up and checked.

What went in is every file found: one that cannot be used counts once, one that can counts as the clips cut
from it. So

    files dropped + clips cut  =  samples + everything in dropped_by_reason

in which a clip counts once for each of the sizes it is encoded in; and of the requests,
`requests = outputs + everything in requests_failed_by_reason`.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from vitascope.errors import Failed
from vitascope.ledger import Status
from vitascope.records import VideoSize
from vitascope.report.dataset import Dataset, counts, dropped, is_in, sizes_of
from vitascope.wording import count

Figures = dict[str, Any]
"""The document of summary.json."""

FROM_TRAIN = (
    "useful_token_share",
    "cost_spread_p99",
    "ranks",
    "zero_stage",
    "precision",
    "steps",
    "steps_skipped",
    "train_loss_first",
    "train_loss_last",
    "val_loss_first",
    "val_loss_last",
    "val_levels",
    "tokens_per_s",
    "data_wait_share",
)
"""Figures taken as training's summary has them."""


class NotAccounted(Failed):
    """Something went in and neither came out nor was dropped: a stage has lost or doubled it."""


def figures(run: Dataset) -> Figures:
    """The document of summary.json: the figures of the stages that have ended.

    `not_accounted` lists what the tables do not account for, `missing` the files that cannot be read; both
    are left out if they are empty.
    """
    ended = run.summaries
    document: Figures = {}
    for stage, (of_stage, names) in _FIGURES.items():
        if stage in ended:  # its summary has the figures, too, should its tables be lost
            document |= {name: ended[stage][name] for name in names if name in ended[stage]}
            document |= of_stage(run)
    tables = {"clips": (run.videos, run.clips), "encode": (run.drops,)}
    document["dropped_by_reason"] = _reasons(
        *(t for stage in tables if stage in ended for t in tables[stage])
    )
    document["seconds_by_stage"] = {stage: round(s.get("seconds", 0), 1) for stage, s in ended.items()}
    wrong = {"not_accounted": unaccounted(run), "missing": run.missing}
    return document | {name: found for name, found in wrong.items() if found}


def _of_clips(run: Dataset) -> Figures:
    if not len(run.videos):
        return {}
    stages = {"probe": run.videos, "clips": run.clips}
    lost = {stage: len(dropped(table)) for stage, table in stages.items()} | {"encode": len(run.drops)}
    return {"videos_in": len(run.videos), "clips": len(run.clips), "dropped_by_stage": lost}


def _of_encode(run: Dataset) -> Figures:
    if not len(run.samples):
        return {}
    splits, psnr = counts(run.samples["split"]), run.samples["psnr_db"].to_pylist()
    return {
        "samples": len(run.samples),
        "samples_train": splits.get("train", 0),
        "samples_val": splits.get("val", 0),
        "sizes": [str(size) for size in sorted(samples_by_size(run))],
        "codec_psnr_db": sum(psnr) / len(psnr),
    }


def _of_generate(run: Dataset) -> Figures:
    if not len(run.manifest):
        return {}
    ok = run.manifest.filter(pa.array(is_in(run.manifest, "status", Status.OK)))
    return {
        "requests": len(run.manifest),
        "outputs": len(ok),
        "outputs_by_mode": counts(ok["mode"]),
        "requests_failed_by_reason": _reasons(run.manifest),
    }


_FIGURES = {
    "clips": (_of_clips, ("videos_in", "clips")),
    "encode": (_of_encode, ("samples", "samples_train", "samples_val", "codec_psnr_db")),
    "train": (lambda _: {}, FROM_TRAIN),
    "generate": (_of_generate, ("requests", "outputs", "outputs_by_mode", "requests_failed_by_reason")),
}
"""By stage: what its tables give, and what its summary has by the same names."""


def samples_by_size(run: Dataset) -> dict[VideoSize, int]:
    """How many samples have which bucket, the most frequent first."""
    sizes, n = np.unique(sizes_of(run.samples), axis=0, return_counts=True)
    order = np.argsort(-n, kind="stable")
    return {VideoSize(*sizes[i].tolist()): int(n[i]) for i in order}


def _reasons(*tables: pa.Table) -> dict[str, int]:
    """How many rows were dropped for which reason, most frequent first."""
    found: Counter[str] = Counter()
    for table in tables:
        found.update(dropped(table)["reason"].to_pylist())
    return dict(found.most_common())


def unaccounted(run: Dataset) -> list[str]:
    """Items that neither came out nor were dropped, and items that came out twice; a line each.

    Empty if a table cannot be read (`run.missing`).
    """
    if run.missing:
        return []
    lines = _samples_unaccounted(run) if {"clips", "encode"} <= run.summaries.keys() else []
    return lines + (_requests_unaccounted(run) if "generate" in run.summaries else [])


def _samples_unaccounted(run: Dataset) -> list[str]:
    """Follows every file to its clips and every clip to its end."""
    used = set(run.videos["video_id"].filter(pa.array(run.good_videos)).to_pylist())
    cut = set(run.clips["video_id"].to_pylist())
    passed = set(run.clips["clip_id"].filter(pa.array(run.good)).to_pylist())
    ended = {name for table in (run.samples, run.drops) for name in table["clip_id"].to_pylist()}
    drops = zip(*(run.drops[name].to_pylist() for name in ("clip_id", "detail")), strict=True)
    lines = [
        _line("file that was read and gave no clip", used - cut),
        _line("clip whose file is not in the videos table", cut - used),
        _line("clip that stands twice in the clips table", _repeated(run.clips["clip_id"].to_pylist())),
        _line("clip that became neither a sample nor a drop", passed - ended),
        _line("sample or drop of a clip that was not to be encoded", ended - passed),
        _line("sample that stands twice in the index", _repeated(run.samples["sample_id"].to_pylist())),
        _line("drop that stands twice", _repeated(f"{name} ({why})" for name, why in drops)),
    ]
    return [line for line in lines if line]


def _requests_unaccounted(run: Dataset) -> list[str]:
    """Every request has one manifest row, and every output a location of its own."""
    rows, ok = run.manifest, is_in(run.manifest, "status", Status.OK)
    asked = run.summaries["generate"].get("requests", len(rows))
    lines = [
        _line("output that two requests claim", _repeated(rows["uri"].filter(pa.array(ok)).to_pylist())),
        _line(
            "request that stands twice in the manifest",
            _repeated(f"line {line}" for line in rows["line"].to_pylist()),
        ),
    ]
    if asked != len(rows):
        lines.append(f"{count(asked, 'request')} read, and the manifest has {count(len(rows), 'row')}")
    return [line for line in lines if line]


def _repeated(values: Iterable[object]) -> list[str]:
    return [str(value) for value, n in Counter(values).items() if n > 1]


def _line(what: str, names: Iterable[str]) -> str:
    """So many of what, by name; nothing for none."""
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{len(listed)} × {what}: {', '.join(listed[:3])}{more}" if listed else ""
