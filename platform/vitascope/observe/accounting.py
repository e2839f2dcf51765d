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

from vitascope.ledger import Status, dropped_by_reason
from vitascope.observe.results import Results, Row

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


class NotAccounted(RuntimeError):
    """Something went in and neither came out nor was dropped: a stage has lost or doubled it."""


def figures(results: Results) -> dict[str, Any]:
    """The document of summary.json.

    Raises:
        NotAccounted: where the tables do not add up, naming what is missing or too much.
    """
    check_samples(results)
    check_requests(results)
    ok = [row for row in results.manifest if row["status"] == Status.OK]
    return {
        "videos_in": len(results.videos),
        "clips": len(results.clips),
        "samples": len(results.samples),
        "dropped_by_reason": dropped_by_reason(_all_drops(results)),
        "dropped_by_stage": {
            "probe": sum(dropped_by_reason(results.videos).values()),
            "clips": sum(dropped_by_reason(results.clips).values()),
            "encode": sum(dropped_by_reason(results.drops).values()),
        },
        "sizes": sorted({size_of(row) for row in results.samples}, key=_by_numbers),
        "codec_psnr_db": _mean(row["psnr_db"] for row in results.samples),
        **{name: results.summaries["train"][name] for name in FROM_TRAIN},
        "requests": len(results.manifest),
        "outputs": len(ok),
        "outputs_by_mode": dict(Counter(row["mode"] for row in ok).most_common()),
        "requests_failed_by_reason": dropped_by_reason(results.manifest),
        "seconds_by_stage": {stage: round(s["seconds"], 1) for stage, s in results.summaries.items()},
    }


def size_of(row: Row) -> str:
    """A sample's bucket in pixels, as frames x height x width."""
    return f"{row['n_frames']}x{row['height']}x{row['width']}"


def check_samples(results: Results) -> None:
    """Follows every file to its clips and every clip to its end; NotAccounted where a trail breaks."""
    used = {row["video_id"] for row in results.videos if row["status"] == Status.OK}
    cut = Counter(row["clip_id"] for row in results.clips)
    passed = {row["clip_id"] for row in results.clips if row["status"] == Status.OK}
    ended = {row["clip_id"] for row in (*results.samples, *results.drops)}
    samples = Counter(row["sample_id"] for row in results.samples)
    drops = Counter((row["clip_id"], row["detail"]) for row in results.drops)
    _none("files that were read and gave no clip", used - {row["video_id"] for row in results.clips})
    _none("clips of files that are not in the videos table", {r["video_id"] for r in results.clips} - used)
    _none("clips that stand twice in the clips table", [name for name, n in cut.items() if n > 1])
    _none("clips that became neither a sample nor a drop", passed - ended)
    _none("samples and drops of clips that were not to be encoded", ended - passed)
    _none("samples that stand twice in the index", [str(name) for name, n in samples.items() if n > 1])
    _none("drops that stand twice", [f"{name} ({why})" for (name, why), n in drops.items() if n > 1])


def check_requests(results: Results) -> None:
    """Every request has one manifest row, and every output a location of its own."""
    places = Counter(row["uri"] for row in results.manifest if row["status"] == Status.OK)
    _none("outputs that two requests claim", [str(uri) for uri, n in places.items() if n > 1])
    lines = Counter(row["line"] for row in results.manifest)
    _none(
        "requests that stand twice in the manifest", [f"line {n}" for n, times in lines.items() if times > 1]
    )
    asked = results.summaries["generate"]["requests"]
    if asked != len(results.manifest):
        raise NotAccounted(f"{asked} requests were read, the manifest has {len(results.manifest)} rows")


def _all_drops(results: Results) -> list[Row]:
    return [*results.videos, *results.clips, *results.drops]


def _none(what: str, found: Iterable[str]) -> None:
    names = sorted(found)
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise NotAccounted(f"{len(names)} {what}: {', '.join(names[:3])}{more}")


def _by_numbers(size: str) -> list[int]:
    return [int(part) for part in size.split("x")]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
