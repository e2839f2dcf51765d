"""One HTML file that shows what a run did."""

import functools
import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from vitascope import config, storage
from vitascope.config import Settings
from vitascope.encode.buckets import Patching
from vitascope.generate.media import read_given
from vitascope.generate.request import Mode, Request
from vitascope.ledger import Rejected, Status
from vitascope.media.clip import Clip
from vitascope.media.probe import probe
from vitascope.model.cost import cost_of
from vitascope.progress import say
from vitascope.records import SAMPLES
from vitascope.report import accounting, charts, data, page
from vitascope.report.accounting import NotAccounted, size_of
from vitascope.report.packing import packing
from vitascope.report.page import Html
from vitascope.report.results import Results, Row, read
from vitascope.report.spread import share
from vitascope.report.thumbnails import looks, webp
from vitascope.wording import count, short

MOST_VIDEOS, MOST_SOURCES, MOST_ROWS = 48, 24, 300  # more would make a page that browsers open slowly
MOST_MEDIUM_BYTES = 16 << 20
_MOST_OF_PATH, _MOST_OF_CAPTION, _MOST_OF_SETTINGS = 120, 300, 40_000
_NO_CLIP = "no clip is kept"


def run(settings: Settings) -> dict[str, Any]:
    """Writes summary.json, whose content it returns, and report.html about the stages that have ended.

    Raises:
        Missing: no stage has.
        NotAccounted: something went in and neither came out nor was dropped; both files say what.
    """
    results = read(settings)
    summary = accounting.figures(results)
    storage.put_json(settings.path("summary.json"), summary)
    storage.put(settings.path("report.html"), render(results, summary))
    for location, why in results.missing.items():
        say("report", f"{location} {why}")
    say("report", settings.path("report.html"))
    if lines := summary.get("not_accounted"):
        raise NotAccounted("; ".join(lines))
    return summary


def render(results: Results, figures: dict[str, Any]) -> bytes:
    """The report as one HTML document that opens offline; a part that cannot be shown says why.

    Args:
        figures: the document of summary.json, from `accounting.figures`.
    """
    ended = results.summaries.keys()
    parts = {
        "Generated": (_made, {"generate"}),
        "What went in": (_went_in, {"clips"}),
        "How it was packed": (_packed, {"train", "encode"}),
        "Training": (_trained, {"train"}),
        "The ledger": (_ledger, {"clips", "encode", "generate"}),
        "Settings": (_settings, ended),
    }
    body = [page.guarded("report", "What Vitascope made", functools.partial(_head, results, figures))]
    for title, (make, stages) in parts.items():
        if stages & ended:
            body.append(page.guarded("report", title, functools.partial(make, results, figures)))
    return page.page(f"Vitascope: {results.settings.run.folder}", body).encode()


def _head(results: Results, figures: dict[str, Any]) -> str:
    seconds = figures["seconds_by_stage"]
    stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    folder = short(results.settings.run.folder, _MOST_OF_PATH)
    about = f"{folder}: {sum(seconds.values()):.0f} s in all ({stages})"
    wrong = [f"Not accounted for: {line}" for line in figures.get("not_accounted", ())]
    wrong += [f"{location} {why}" for location, why in results.missing.items()]
    problems = "".join(map(page.absent, wrong))
    return f"<h1>What Vitascope made</h1><p>{page.text(about)}</p>{problems}{page.tiles(_tiles(figures))}"


def _tiles(figures: dict[str, Any]) -> dict[str, str]:
    """What is known, in large type."""
    trained_on, held_out = figures.get("samples_train", 0), figures.get("samples_val", 0)
    shown = {
        "files in": ("videos_in", "{:,}"),
        "training samples": ("samples_train", "{:,}"),
        f"held-out samples, {share(held_out, trained_on + held_out):.1%} of all": ("samples_val", "{:,}"),
        "useful tokens": ("useful_token_share", "{:.1%}"),
        "training steps": ("steps", "{:,}"),
        "tokens per second": ("tokens_per_s", "{:,.0f}"),
    }
    tiles = {
        what: how.format(figures[key]) for what, (key, how) in shown.items() if figures.get(key) is not None
    }
    if "val_loss_first" in figures:
        unknown = "not measured" if held_out else "none held out"
        tiles["held-out loss"] = _fell(figures["val_loss_first"], figures["val_loss_last"]) or unknown
    if "outputs" in figures:
        tiles["outputs of requests"] = f"{figures['outputs']:,} of {figures['requests']:,}"
    return tiles


def _fell(first: float | None, last: float | None) -> str:
    return "" if first is None or last is None else f"{first:.2f} → {last:.2f}"


def _made(results: Results, figures: dict[str, Any]) -> str:  # noqa: ARG001
    made = [row for row in results.manifest if row["status"] == Status.OK]
    more = f" The first {MOST_VIDEOS} of {len(made):,}." if len(made) > MOST_VIDEOS else ""
    about = (
        "Each with its prompt. Next to a video are its conditioning frames; the line under it is coloured "
        "where they lie in time." + more
    )
    settings = results.card or results.settings
    patching = Patching(settings.encode.strides, settings.model.patch)
    cards = (_output(row, patching) for row in made[:MOST_VIDEOS])
    return page.section("Generated", about, page.gallery(cards))


def _output(row: Row, patching: Patching) -> str:
    try:
        sidecar = storage.read_json(posixpath.splitext(row["uri"])[0] + ".json")
        before, after, strip = _given(sidecar, patching)
        prompt = page.text(sidecar["prompt"], _MOST_OF_CAPTION)
        about, seed = sidecar["prompt"], f", seed {sidecar['seed']}"
    except Exception as error:  # whatever a sidecar that is gone or damaged leads to
        before = after = strip = seed = ""
        about = f"Its sidecar cannot be read ({type(error).__name__}: {error})"
        prompt = page.bad(about)
    size = f"{row['width']}×{row['height']}"
    length = f", {count(row['n_frames'], 'frame')} at {row['fps']:g} fps" if row["n_frames"] > 1 else ""
    mode = page.text(row["mode"].replace("_", " "))
    facts = f"<span class='tag'>{mode}</span> {size}{length}{seed}, {row['seconds']:.1f} s"
    caption = f"<div class='words'>{prompt}</div><small>{facts}</small>"
    return page.figure(before + _medium(row) + after, caption, strip, about=about)


def _medium(row: Row) -> str:
    """An output as it plays, or why it does not: its last frame is decoded to know."""
    try:
        facts = probe(row["uri"])
        if (facts.width, facts.height) != (row["width"], row["height"]):
            is_now = f"{facts.width}×{facts.height}"
            return page.nothing(f"The file has been replaced: it is {is_now} now.")
        at_s = (row["n_frames"] - 1) / row["fps"] if row["n_frames"] > 1 else 0.0
        Clip(row["uri"], facts.decoder, start_s=at_s).frames()
        if (n_bytes := storage.size_bytes(row["uri"])) > MOST_MEDIUM_BYTES:
            return page.nothing(f"{n_bytes / 1e6:,.0f} MB are too many for this page.")
        return page.medium(storage.read_bytes(row["uri"]), posixpath.splitext(row["uri"])[1])
    except Rejected as rejected:
        return page.nothing(f"The output cannot be shown: {rejected.detail}")
    except Exception as error:
        return page.nothing(f"The output cannot be shown: {type(error).__name__} {error}")


def _given(sidecar: Row, patching: Patching) -> tuple[str, str, str]:
    """The last frame given before the video, the first given after it, and where all the given ones lie."""
    request = _request(sidecar)
    try:
        place, frames = read_given(request, patching) if any(sidecar["media"].values()) else (None, None)
    except Exception as error:  # the media may be gone or changed
        return "", "", f"<small class='words'>{page.text(error, _MOST_OF_CAPTION)}</small>"
    if place is None or frames is None:
        return "", "", ""
    before = page.medium(webp(frames[place.n_first - 1 :][:1]), ".webp", "given") if place.n_first else ""
    after = page.medium(webp(frames[place.n_first :][:1]), ".webp", "given") if place.n_last else ""
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


def _went_in(results: Results, figures: dict[str, Any]) -> str:  # noqa: ARG001
    sizes = Counter(size_of(row) for row in results.samples)
    more = f", the first {MOST_ROWS} of {len(results.videos):,}" if len(results.videos) > MOST_ROWS else ""
    tables = {
        f"Files{more}": page.table(
            ("file", "size", "length", "codec", "clips", "status"), list(_files(results))[:MOST_ROWS]
        ),
        "Samples by size, held-out ones too": page.bars(
            dict(sizes.most_common(24)), "frames × height × width", "samples"
        ),
    }
    about = "One clip of each file with its caption, the files, and the sizes their samples have."
    there = storage.exists(results.settings.path(data.FILE))
    link = f'<p><a href="{data.FILE}">All about the data</a></p>' if there else ""
    gallery = page.gallery(_sources(results), small=True)
    return page.section("What went in", about, link, gallery, "<br>", page.panels(tables))


def _files(results: Results) -> Iterator[tuple[object, ...]]:
    kept = Counter(row["video_id"] for row in results.clips if row["status"] == Status.OK)
    lost: dict[str, Counter[str]] = {}
    for row in results.clips:
        if row["status"] != Status.OK:
            lost.setdefault(row["video_id"], Counter())[row["reason"]] += 1
    for row in results.videos:
        length = f"{row['duration_s']:.1f} s" if row["duration_s"] else ""
        size = f"{row['width']}×{row['height']}" if row["width"] else ""
        status: object = row["status"]
        if row["status"] != Status.OK:
            status = page.bad(row["reason"])
        elif not kept[row["video_id"]]:
            reasons = ", ".join(f"{why} {n}" for why, n in lost.get(row["video_id"], Counter()).most_common())
            status = page.bad(f"{_NO_CLIP}: {reasons}" if reasons else _NO_CLIP)
        yield row["name"], size, length, row["codec"], kept[row["video_id"]], status


def _sources(results: Results) -> Iterator[str]:
    by_video = {row["video_id"]: row for row in results.clips if row["status"] == Status.OK}
    clips = list(by_video.values())[:MOST_SOURCES]
    pictures = looks([(clip, False) for clip in clips], results.settings.clips.decode_timeout_s)
    for clip, picture in zip(clips, pictures, strict=True):
        media = page.medium(picture.still, ".webp") if picture.still else page.nothing(picture.detail)
        words = page.text(clip["caption"], _MOST_OF_CAPTION)
        name = page.text(short(clip["name"], _MOST_OF_PATH))
        about = f"{clip['name']}: {clip['caption'] or ''}"
        yield page.figure(media, f"<div class='words'>{words}</div><small>{name}</small>", about=about)


def _packed(results: Results, figures: dict[str, Any]) -> str:
    feed, card = results.settings.feed, results.card
    if card is None or not figures.get("samples_train"):
        why = "the model's card cannot be read" if card is None else "no sample is there to train on"
        return page.section("How it was packed", "", page.absent(f"Not planned again here: {why}."))
    samples = pa.Table.from_pylist(results.samples, SAMPLES)
    packed = packing(results.settings, samples, cost_of(card.model, card.channels, card.text_dim))
    about = (
        f"A step is {count(feed.packs_per_step, 'pack')} of at most {count(feed.token_budget, 'patch')}, on "
        f"average {packed.tokens.mean() / feed.token_budget:.0%} full: samples of any size, end to end. "
        f"{figures['useful_token_share']:.2%} of the tokens computed are real. "
        f"Packs of a step cost the same, so {count(figures['ranks'], 'rank')} "
        f"{'finishes' if figures['ranks'] == 1 else 'finish'} together: the busiest is "
        f"{figures['cost_spread_p99']:.2%} above the mean in the worst steps (99th percentile)."
    )
    plots = {
        "Tokens per pack": charts.pack_tokens(packed.tokens, feed.token_budget),
        "Cost per rank": charts.rank_costs(packed.rank_costs),
    }
    return page.section("How it was packed", about, page.panels(plots))


def _trained(results: Results, figures: dict[str, Any]) -> str:
    losses = results.losses
    curves = {row["size"]: row["loss"] for row in losses.get("by_size", [])[:12]}
    plots = {
        "Loss": charts.losses(results.steps, results.held_out) if results.steps else "",
        "Throughput": charts.throughput(results.steps) if results.steps else "",
        "Held-out loss by noise level": charts.loss_by_timestep(losses["timesteps"], curves)
        if curves
        else "",
        "Seconds by stage": page.bars(figures["seconds_by_stage"], "stage", "seconds"),
    }
    about = _model(results, figures)
    return page.section("Training", about, page.panels({k: v for k, v in plots.items() if v}))


def _model(results: Results, figures: dict[str, Any]) -> str:
    """What was trained, in a sentence."""
    parameters, card = results.summaries["train"].get("n_parameters"), results.card
    size = f"{parameters / 1e6:.1f} M parameters" if parameters else "A model"
    shape = f", {count(card.model.depth, 'block')} of width {card.model.width}" if card else ""
    skipped = figures.get("steps_skipped", 0)
    more = f" {count(skipped, 'step')} skipped because loss or gradient was not finite." if skipped else ""
    return (
        f"{size}{shape}, on {count(figures['ranks'], 'rank')} with ZeRO stage {figures['zero_stage']}, in "
        f"{figures['precision']}.{more} {figures['data_wait_share']:.2%} of the time was spent waiting for "
        "data."
    )


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
    first = {True: f", the first {MOST_ROWS}", False: ""}
    lost_title = f"Dropped ({len(lost):,}{first[len(lost) > MOST_ROWS]})"
    refused_title = f"Refused or failed requests ({len(refused):,}{first[len(refused) > MOST_ROWS]})"
    heads = ("stage", "name", "reason", "detail"), ("line", "request", "reason", "detail")
    tables = {
        lost_title: page.table(heads[0], lost[:MOST_ROWS]) if results.videos else "",
        refused_title: page.table(heads[1], refused[:MOST_ROWS]) if results.manifest else "",
    }
    notes = [f"{stage}: {note}" for stage, s in results.summaries.items() for note in s.get("notes", ())]
    return page.section(
        "The ledger",
        _accounts(figures),
        page.notes(notes),
        page.panels({k: v for k, v in tables.items() if v}),
    )


def _accounts(figures: dict[str, Any]) -> str:
    """What went in and what came out, in sentences."""
    said = []
    if "videos_in" in figures:
        dropped = sum(figures["dropped_by_reason"].values())
        said.append(
            f"{count(figures['videos_in'], 'file')} went in; dropped of files and clips: {dropped:,}."
        )
    if "samples_train" in figures:
        said.append(
            f"They became {count(figures['samples_train'], 'sample')} to train on and "
            f"{figures['samples_val']:,} held out."
        )
    if "requests" in figures:
        failed = figures["requests"] - figures["outputs"]
        said.append(
            f"{count(figures['requests'], 'request')} became {count(figures['outputs'], 'output')}; "
            f"refused or failed: {failed:,}."
        )
    if figures.get("not_accounted") or figures.get("missing"):
        said.append("The account is not complete; see the top.")
    elif "samples" in figures or "requests" in figures:
        said.append("Nothing is unaccounted for.")
    return " ".join(said)


def _settings(results: Results, figures: dict[str, Any]) -> str:  # noqa: ARG001
    lines = (short(line, page.MOST_SHOWN) for line in config.to_toml(results.settings).splitlines())
    toml = Html(f"<pre>{page.text(chr(10).join(lines), _MOST_OF_SETTINGS)}</pre>")
    return page.section(
        "Settings", "", f"<details><summary>as resolved for this run</summary>{toml}</details>"
    )
