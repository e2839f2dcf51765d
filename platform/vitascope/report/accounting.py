"""The figures of summary.json, added up and checked.

What went in is every file found: one that cannot be used counts once, one that can counts as the clips cut
from it. So

    files dropped + clips cut  =  samples + everything in dropped_by_reason

where a clip counts once for each of the sizes it is encoded in; and of the requests,
`requests = outputs + everything in requests_failed_by_reason`.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from vitascope.errors import Failed
from vitascope.ledger import Status, dropped_by_reason
from vitascope.report.results import Results, Row
from vitascope.wording import count

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
    "tokens_per_s",
    "data_wait_share",
)
"""Figures taken as training's summary has them."""


class NotAccounted(Failed):
    """Something went in and neither came out nor was dropped: a stage has lost or doubled it."""


def figures(results: Results) -> dict[str, Any]:
    """The document of summary.json: the figures of the stages that have ended.

    `not_accounted` lists what the tables do not account for, `missing` the files that cannot be read; both
    are left out if they are empty.
    """
    ended = results.summaries
    document: dict[str, Any] = {}
    for stage, (of_stage, names) in _FIGURES.items():
        if stage in ended:  # its summary has the figures, too, should its tables be lost
            document |= {name: ended[stage][name] for name in names if name in ended[stage]}
            document |= of_stage(results)
    drops = {"clips": [*results.videos, *results.clips], "encode": results.drops}
    dropped = [row for stage, rows in drops.items() if stage in ended for row in rows]
    document["dropped_by_reason"] = dropped_by_reason(dropped)
    document["seconds_by_stage"] = {stage: round(s.get("seconds", 0), 1) for stage, s in ended.items()}
    wrong = {"not_accounted": unaccounted(results), "missing": results.missing}
    return document | {name: found for name, found in wrong.items() if found}


def _of_clips(results: Results) -> dict[str, Any]:
    if not results.videos:
        return {}
    files, clips = (sum(dropped_by_reason(rows).values()) for rows in (results.videos, results.clips))
    return {
        "videos_in": len(results.videos),
        "clips": len(results.clips),
        "dropped_by_stage": {"probe": files, "clips": clips, "encode": len(results.drops)},
    }


def _of_encode(results: Results) -> dict[str, Any]:
    if not results.samples:
        return {}
    splits = Counter(row["split"] for row in results.samples)
    return {
        "samples": len(results.samples),
        "samples_train": splits["train"],
        "samples_val": splits["val"],
        "sizes": sorted({size_of(row) for row in results.samples}, key=_by_numbers),
        "codec_psnr_db": _mean([row["psnr_db"] for row in results.samples]),
    }


def _of_generate(results: Results) -> dict[str, Any]:
    if not results.manifest:
        return {}
    ok = [row for row in results.manifest if row["status"] == Status.OK]
    return {
        "requests": len(results.manifest),
        "outputs": len(ok),
        "outputs_by_mode": dict(Counter(row["mode"] for row in ok).most_common()),
        "requests_failed_by_reason": dropped_by_reason(results.manifest),
    }


_FIGURES = {
    "clips": (_of_clips, ("videos_in", "clips")),
    "encode": (_of_encode, ("samples", "samples_train", "samples_val", "codec_psnr_db")),
    "train": (lambda _: {}, FROM_TRAIN),
    "generate": (_of_generate, ("requests", "outputs", "outputs_by_mode", "requests_failed_by_reason")),
}
"""By stage: what its tables give, and what its summary has by the same names."""


def size_of(row: Row) -> str:
    """A sample's bucket in pixels, as frames x height x width."""
    return f"{row['n_frames']}x{row['height']}x{row['width']}"


def unaccounted(results: Results) -> list[str]:
    """What went in and neither came out nor was dropped, and what came out twice; a line each.

    Without a table that cannot be read, `results.missing`, nothing can be said.
    """
    if results.missing:
        return []
    found = _samples_unaccounted(results) if {"clips", "encode"} <= results.summaries.keys() else []
    return found + (_requests_unaccounted(results) if "generate" in results.summaries else [])


def _samples_unaccounted(results: Results) -> list[str]:
    """Follows every file to its clips and every clip to its end."""
    used = {row["video_id"] for row in results.videos if row["status"] == Status.OK}
    cut = Counter(row["clip_id"] for row in results.clips)
    passed = {row["clip_id"] for row in results.clips if row["status"] == Status.OK}
    ended = {row["clip_id"] for row in (*results.samples, *results.drops)}
    samples = Counter(row["sample_id"] for row in results.samples)
    drops = Counter((row["clip_id"], row["detail"]) for row in results.drops)
    lines = [
        _line("file that was read and gave no clip", used - {row["video_id"] for row in results.clips}),
        _line("clip whose file is not in the videos table", {r["video_id"] for r in results.clips} - used),
        _line("clip that stands twice in the clips table", [name for name, n in cut.items() if n > 1]),
        _line("clip that became neither a sample nor a drop", passed - ended),
        _line("sample or drop of a clip that was not to be encoded", ended - passed),
        _line("sample that stands twice in the index", [str(name) for name, n in samples.items() if n > 1]),
        _line("drop that stands twice", [f"{name} ({why})" for (name, why), n in drops.items() if n > 1]),
    ]
    return [line for line in lines if line]


def _requests_unaccounted(results: Results) -> list[str]:
    """Every request has one manifest row, and every output a location of its own."""
    places = Counter(row["uri"] for row in results.manifest if row["status"] == Status.OK)
    numbers = Counter(row["line"] for row in results.manifest)
    asked = results.summaries.get("generate", {}).get("requests", len(results.manifest))
    lines = [
        _line("output that two requests claim", [str(uri) for uri, n in places.items() if n > 1]),
        _line(
            "request that stands twice in the manifest", [f"line {i}" for i, n in numbers.items() if n > 1]
        ),
    ]
    if asked != len(results.manifest):
        rows = count(len(results.manifest), "row")
        lines.append(f"{count(asked, 'request')} read, and the manifest has {rows}")
    return [line for line in lines if line]


def _line(what: str, found: Iterable[str]) -> str:
    """So many of what, by name; nothing if none was found."""
    names = sorted(found)
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} × {what}: {', '.join(names[:3])}{more}"


def _by_numbers(size: str) -> list[int]:
    return [int(part) for part in size.split("x")]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
