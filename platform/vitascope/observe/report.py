"""One HTML file that shows what a run did."""

import io
import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from PIL import Image

from vitascope import config, storage
from vitascope.clips.decode import read_clip
from vitascope.config import Settings
from vitascope.generate.media import read_given
from vitascope.generate.request import Mode, Request
from vitascope.ledger import Rejected, Status
from vitascope.model.card import ModelCard, load_card
from vitascope.model.cost import cost_of
from vitascope.observe import accounting, charts, data, page
from vitascope.observe.accounting import size_of
from vitascope.observe.packing import packing
from vitascope.observe.page import Html
from vitascope.observe.results import Results, Row, read
from vitascope.progress import say
from vitascope.records import SAMPLES

MOST_VIDEOS, MOST_SOURCES, MOST_ROWS = 48, 24, 300  # more would make a page that browsers open slowly
_THUMBNAIL_PX = 240


def run(settings: Settings) -> dict[str, Any]:
    """Writes summary.json, whose content it returns, and report.html into the folder of a finished run.

    Raises:
        FileNotFoundError: where a stage has not been run.
        NotAccounted: where something went in and neither came out nor was dropped.
    """
    found = read(settings)
    summary = accounting.figures(found)
    storage.put_json(settings.path("summary.json"), summary)
    storage.put(settings.path("report.html"), render(found, summary))
    say("report", settings.path("report.html"))
    return summary


def render(results: Results, figures: dict[str, Any]) -> bytes:
    """The report as one HTML document that opens offline.

    Args:
        figures: the document of summary.json, from `accounting.figures`.
    """
    card = load_card(results.settings.generate.model or results.settings.path("model"))
    body = [
        _head(results, figures),
        _made(results, card),
        _went_in(results),
        _packed(results, figures, card),
        _trained(results, figures, card),
        _ledger(results, figures),
        _settings(results),
    ]
    return page.page(f"Vitascope: {results.settings.run.folder}", body).encode()


def _head(results: Results, figures: dict[str, Any]) -> str:
    seconds = figures["seconds_by_stage"]
    shown = {
        "files in": f"{figures['videos_in']:,}",
        "training samples": f"{figures['samples']:,}",
        "sizes, T×H×W": f"{len(figures['sizes'])}",
        "useful tokens": f"{figures['useful_token_share']:.1%}",
        "training steps": f"{figures['steps']:,}",
        "tokens per second": f"{figures['tokens_per_s']:,.0f}",
        "held-out loss": _fell(figures["val_loss_first"], figures["val_loss_last"]),
        "outputs of requests": f"{figures['outputs']} of {figures['requests']}",
    }
    stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    about = f"{results.settings.run.folder}: {sum(seconds.values()):.0f} s in all ({stages})"
    return f"<h1>What Vitascope made</h1><p>{page.text(about)}</p>{page.tiles(shown)}"


def _fell(first: float | None, last: float | None) -> str:
    if first is None or last is None:
        return "none held out"
    return f"{first:.2f} → {last:.2f}"


def _made(results: Results, card: ModelCard) -> str:
    made = [row for row in results.manifest if row["status"] == Status.OK]
    more = f" The first {MOST_VIDEOS} of {len(made)}." if len(made) > MOST_VIDEOS else ""
    about = (
        "Each with its prompt. Beside a video stand frames it was given, and the line under it is coloured "
        "where those lie in time." + more
    )
    cards = (_output(row, card) for row in made[:MOST_VIDEOS])
    return page.section("Generated", about, page.gallery(cards))


def _output(row: Row, card: ModelCard) -> str:
    base, suffix = posixpath.splitext(row["uri"])
    sidecar = storage.read_json(base + ".json")
    before, after, strip = _given(sidecar, card)
    size = f"{row['width']}×{row['height']}"
    length = f", {row['n_frames']} frames at {row['fps']:g} fps" if row["n_frames"] > 1 else ""
    mode = page.text(row["mode"].replace("_", " "))
    caption = (
        f"{page.text(sidecar['prompt'])}<small><span class='tag'>{mode}</span> "
        f"{size}{length}, seed {sidecar['seed']}, {row['seconds']:.1f} s</small>"
    )
    return page.figure(before + page.medium(storage.read_bytes(row["uri"]), suffix) + after, caption, strip)


def _given(sidecar: Row, card: ModelCard) -> tuple[str, str, str]:
    """The last frame given before the video, the first given after it, and where all the given ones lie."""
    request = _request(sidecar)
    try:
        place, frames = (
            read_given(request, card.model.patch) if any(sidecar["media"].values()) else (None, None)
        )
    except Rejected as error:  # the media have gone since
        return "", "", f"<small>{page.text(error)}</small>"
    if place is None or frames is None:
        return "", "", ""
    before = page.medium(_jpeg(frames[place.n_first - 1]), ".jpg", "given") if place.n_first else ""
    after = page.medium(_jpeg(frames[place.n_first]), ".jpg", "given") if place.n_last else ""
    n = request.size.n_frames
    return before, after, page.strip(place.n_first / n, place.n_last / n)


def _request(sidecar: Row) -> Request:
    kind = sidecar["kind"]
    same = ("custom_id", "prompt", "negative_prompt", "width", "height", "fps", "seed", "steps", "guidance")
    return Request(
        **{name: sidecar[name] for name in same},
        **sidecar["media"],
        mode=Mode.TEXT_TO_VIDEO if kind == "image" else Mode(kind),
        seconds=sidecar["n_frames"] / sidecar["fps"],
    )


def _went_in(results: Results) -> str:
    clips = Counter(row["video_id"] for row in results.clips if row["status"] == Status.OK)
    files = [
        (
            row["name"],
            f"{row['width']}×{row['height']}" if row["width"] else "",
            f"{row['duration_s']:.1f} s" if row["duration_s"] else "",
            row["codec"],
            clips[row["video_id"]],
            row["status"] if row["status"] == Status.OK else page.bad(row["reason"]),
        )
        for row in results.videos[:MOST_ROWS]
    ]
    sizes = Counter(size_of(row) for row in results.samples)
    tables = {
        "Files": page.table(("file", "size", "length", "codec", "clips", "status"), files),
        "Samples by size": page.bars(dict(sizes.most_common(24)), "frames × height × width", "samples"),
    }
    about = "One clip of each file with its caption, the files, and the sizes their samples have."
    there = storage.exists(results.settings.path(data.FILE))
    more = f'<p><a href="{data.FILE}">All about the data</a></p>' if there else ""
    gallery = page.gallery(_sources(results), small=True)
    return page.section("What went in", about, more, gallery, "<br>", page.panels(tables))


def _sources(results: Results) -> Iterator[str]:
    by_video = {row["video_id"]: row for row in results.clips if row["status"] == Status.OK}
    for clip in list(by_video.values())[:MOST_SOURCES]:
        middle_s = (clip["start_s"] + clip["end_s"]) / 2
        frame = read_clip(clip["uri"], start_s=middle_s, decoder=clip["decoder"])[0]
        caption = f"{page.text(clip['caption'])}<small>{page.text(clip['name'])}</small>"
        yield page.figure(page.medium(_jpeg(frame), ".jpg"), caption)


def _jpeg(frame: Any) -> bytes:
    picture = Image.fromarray(frame)
    picture.thumbnail((2 * _THUMBNAIL_PX, _THUMBNAIL_PX))
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=85)
    return sink.getvalue()


def _packed(results: Results, figures: dict[str, Any], card: ModelCard) -> str:
    feed = results.settings.feed
    samples = pa.Table.from_pylist(results.samples, SAMPLES)
    packed = packing(results.settings, samples, cost_of(card.model, card.channels, card.text_dim))
    about = (
        f"A step is {feed.packs_per_step} packs of at most {feed.token_budget:,} patches: samples of any "
        f"size, end to end. {figures['useful_token_share']:.2%} of the tokens computed are real. Packs of a "
        f"step cost the same, so {figures['ranks']} ranks finish together: the busiest is "
        f"{figures['cost_spread_p99']:.2%} above the mean in the worst steps (99th percentile)."
    )
    plots = {
        "Tokens per pack": charts.pack_tokens(packed.tokens, feed.token_budget),
        "Cost per rank": charts.rank_costs(packed.rank_costs),
    }
    return page.section("How it was packed", about, page.panels(plots))


def _trained(results: Results, figures: dict[str, Any], card: ModelCard) -> str:
    parameters = results.summaries["train"].get("n_parameters")
    size = f"{parameters / 1e6:.1f} M parameters" if parameters else "A model"
    skipped = figures["steps_skipped"]
    more = f" {skipped} steps were skipped because loss or gradient was not finite." if skipped else ""
    about = (
        f"{size}, {card.model.depth} blocks of width {card.model.width}, on {figures['ranks']} ranks with "
        f"ZeRO stage {figures['zero_stage']}, in {figures['precision']}.{more} "
        f"{figures['data_wait_share']:.2%} of the time was spent waiting for data."
    )
    losses = results.losses
    curves = {row["size"]: row["loss"] for row in losses["by_size"][:12]}
    plots = {
        "Loss": charts.losses(results.steps, results.held_out),
        "Throughput": charts.throughput(results.steps),
        "Held-out loss by noise level": charts.loss_by_timestep(losses["timesteps"], curves)
        if curves
        else "",
        "Seconds by stage": page.bars(figures["seconds_by_stage"], "stage", "seconds"),
    }
    return page.section("Training", about, page.panels({k: v for k, v in plots.items() if v}))


def _ledger(results: Results, figures: dict[str, Any]) -> str:
    stages = (("probe", results.videos), ("clips", results.clips), ("encode", results.drops))
    lost = [
        (stage, row["name"], page.bad(row["reason"]), row["detail"])
        for stage, rows in stages
        for row in rows
        if row["status"] == Status.DROPPED
    ]
    refused = [
        (row["line"], row["custom_id"], page.bad(row["reason"]), row["detail"])
        for row in results.manifest
        if row["status"] == Status.DROPPED
    ]
    dropped = sum(figures["dropped_by_reason"].values())
    about = (
        f"{figures['videos_in']} files went in: {figures['samples']} samples came of them and {dropped} "
        f"files and clips were dropped. Of {figures['requests']} requests {figures['outputs']} became "
        f"outputs; refused or failed: {len(refused)}. Nothing is unaccounted for."
    )
    more = f", the first {MOST_ROWS}" if len(lost) > MOST_ROWS else ""
    tables = {
        f"Dropped ({len(lost)}{more})": page.table(("stage", "name", "reason", "detail"), lost[:MOST_ROWS]),
        f"Refused or failed requests ({len(refused)})": page.table(
            ("line", "request", "reason", "detail"), refused[:MOST_ROWS]
        ),
    }
    return page.section("The ledger", about, page.panels(tables))


def _settings(results: Results) -> str:
    toml = Html(f"<pre>{page.text(config.to_toml(results.settings))}</pre>")
    return page.section(
        "Settings", "", f"<details><summary>as resolved for this run</summary>{toml}</details>"
    )
