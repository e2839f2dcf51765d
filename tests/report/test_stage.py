"""The report is one page that opens offline and shows everything that was made."""

import base64
import io
import re
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flow import sources
from flow.finished import REQUESTS, WRONG, change
from media.made import corners_video, write_video
from vitascope import config, storage
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.report import accounting
from vitascope.report import stage as report
from vitascope.report.dataset import read
from vitascope.stages import runner

N_VIDEOS = sum(asked["seconds"] > 0 for asked in REQUESTS.values())
N_WITH_MEDIA = sum("mode" in asked for asked in REQUESTS.values())
N_GIVEN = 1 + 1 + 1 + 2  # pictures of conditioning frames: from an image, on, before, and between two
KEPT = [n for n, cut in sources.CLIPS.items() if any(why in (None, "no_bucket") for _, why in cut)]
"""Files of which the clips stage has kept a clip."""

N_PLOTS = 5  # tokens per pack, cost per rank, loss, throughput, held-out loss by noise level


class Tags(HTMLParser):
    """Collects what a browser would load or show."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def flat(page: bytes) -> str:
    """A page with every run of white space as one blank, as browsers show it."""
    return " ".join(page.decode().split())


@pytest.fixture(scope="module")
def html(finished_run: Settings) -> str:
    found = read(finished_run)
    return flat(report.render(found, accounting.figures(found)))


@pytest.fixture(scope="module")
def tags(html: str) -> Tags:
    parser = Tags()
    parser.feed(html)
    return parser


def test_nothing_is_loaded_from_elsewhere(tags: Tags) -> None:
    sources = [str(a[name]) for _, a in tags.found for name in ("src", "href", "xlink:href") if name in a]
    assert sources
    assert all(source.startswith(("data:", "#")) or source == "data.html" for source in sources)
    assert not [name for name, _ in tags.found if name in ("script", "link", "iframe")]


def test_every_generated_video_plays_by_itself(tags: Tags) -> None:
    videos = tags.of("video")
    assert len(videos) == N_VIDEOS
    assert all(str(v["src"]).startswith("data:video/mp4;base64,") for v in videos)
    assert all({"autoplay", "loop", "muted"} <= v.keys() for v in videos)


def test_given_frames_stand_beside_what_was_made_of_them(html: str) -> None:
    assert html.count("<em>given</em>") == N_GIVEN


def test_prompts_names_and_reasons_are_text_and_not_markup(html: str) -> None:
    expected = ["a goes on from &lt;this&gt;", "four &lt;coloured&gt; quarters"]
    expected += ["unknown key &#39;&lt;promt&gt;&#39;", "0 bytes", "empty_file", "no_caption", "no_bucket"]
    assert [text for text in (*expected, *sources.BAD, *sources.CLIPS) if text not in html] == []
    assert not re.search("<(this|coloured|promt)>", html)


def test_skipped_steps_have_no_loss_to_plot(settings: Settings) -> None:
    rows = [{"step": i, "loss": 2 / (i + 1), "tokens_per_s": 8000.0 + i} for i in range(120)]
    for step in (2, 77):
        rows[step]["loss"] = None
    logged_later(settings).write_bytes(storage.json_lines(rows[2:]))
    storage.put(settings.path("train", "metrics", "00000000.jsonl"), storage.json_lines(rows[:2]))
    summary = settings.path("summaries", "train.json")
    storage.put_json(summary, storage.read_json(summary) | {"steps_skipped": 2})
    page = shown(settings)
    assert len(re.findall(r"<svg.*?</svg>", page, re.S)) == N_PLOTS
    assert "2 steps skipped because loss or gradient was not finite" in page


def test_plots_follow_the_colours_of_the_page(html: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(plots) == N_PLOTS
    assert all("currentColor" in plot and "#010203" not in plot for plot in plots)


def shown(settings: Settings) -> str:
    report.run(settings)
    return flat(storage.read_bytes(settings.path("report.html")))


def source_of(settings: Settings, name: str) -> Path:
    return Path(settings.clips.input, name)


def output_of(settings: Settings, name: str) -> Path:
    rows = storage.rows(settings.path("outputs", "batch", "manifest.parquet"))
    return next(Path(row["uri"]) for row in rows if row["custom_id"] == name)


def logged_later(settings: Settings) -> Path:
    """The log of the steps after the first checkpoint."""
    return Path(settings.path("train", "metrics", "00000002.jsonl"))


def replaced(path: Path) -> None:
    corners_video(path, size=(64, 64))


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BREAKING: dict[str, Callable[[Path], Any]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(b"<html>" * 99),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "replaced": replaced,
    "a folder": made_a_folder,
}


@pytest.mark.parametrize("how", BREAKING)
def test_a_source_that_is_broken_since_costs_its_own_picture_alone(settings: Settings, how: str) -> None:
    BREAKING[how](source_of(settings, "bunny.mp4"))
    page = shown(settings)
    gallery = page[page.index('id="what-went-in"') :]
    assert gallery.count("data:image/webp") == len(KEPT) - 1
    assert gallery.count('<div class="none">') == 1
    assert "<video " in page
    assert "FileNotFoundError" in page if how == "gone" else "source changed" in page


@pytest.mark.parametrize("how", BREAKING)
def test_an_output_that_is_broken_since_says_so_in_its_place(settings: Settings, how: str) -> None:
    BREAKING[how](output_of(settings, "text"))
    page = shown(settings)
    assert page.count("<video ") == N_VIDEOS - 1
    assert ("The file has been replaced" if how == "replaced" else "The output cannot be shown") in page


@pytest.mark.parametrize("how", ["gone", "empty", "junk"])
def test_any_file_of_the_run_may_be_broken(settings: Settings, how: str) -> None:
    """Each in turn is named in the page, and in summary.json, and the rest is shown."""
    tables = {
        "videos/videos.parquet": "videos",
        "clips/clips.parquet": "clips",
        "evaluate/losses.json": "losses.json",
        "outputs/batch/manifest.parquet": "manifest.parquet",
        "model/model.json": "model",
        "train/metrics/00000000.jsonl": "metrics",
        "train/metrics/00000002.jsonl": "metrics",
    } | {f"{latents_folder(settings)}/{name}": name for name in ("index.parquet", "drops.parquet")}
    for name, said in tables.items():
        path = Path(settings.path(name))
        whole = path.read_bytes()
        BREAKING[how](path)
        page = shown(settings)
        missing = storage.read_json(settings.path("summary.json"))["missing"]
        assert [place for place in missing if said in place or latents_folder(settings) in place], name
        assert f"{next(iter(missing))} " in page
        assert page.count("<section") == 6
        path.write_bytes(whole)
    assert "missing" not in report.run(settings)


def logged(settings: Settings, steps: Iterable[int]) -> str | None:
    """What the report says of a log of these steps, of a run whose summary has 4."""
    rows = [{"step": step, "loss": 1.0, "tokens_per_s": 8000.0} for step in steps]
    logged_later(settings).unlink(missing_ok=True)
    storage.put(settings.path("train", "metrics", "00000000.jsonl"), storage.json_lines(rows))
    return read(settings).missing.get(settings.path("train", "metrics"))


def test_steps_that_the_log_has_lost_are_named(settings: Settings) -> None:
    assert logged(settings, range(4)) is None
    assert logged(settings, [*range(3), *range(4)]) is None
    assert logged(settings, range(2)) == "lacks steps 2 to 3"
    assert logged(settings, [0, 2, 3]) == "lacks step 1"
    assert logged(settings, [*range(3), 4]) == "lacks step 3"
    assert logged(settings, [2, 5]) == "lacks steps 0 to 1, 3 to 4"


def test_a_log_of_held_out_losses_alone_has_lost_every_step(settings: Settings) -> None:
    logged_later(settings).unlink()
    first = settings.path("train", "metrics", "00000000.jsonl")
    storage.put(first, storage.json_lines([{"step": 0, "val_loss": 1.0}]))
    assert read(settings).missing == {settings.path("train", "metrics"): "lacks steps 0 to 3"}


def test_a_log_that_still_grows_has_lost_nothing(settings: Settings) -> None:
    """Of a run that goes on, and of one that begins anew while its earlier summary is still there."""
    assert logged(settings, range(6)) is None

    def training(_: str) -> bool:
        assert logged(settings, range(2)) is None
        assert logged(settings, [0, 2]) == "lacks step 1"
        return True

    runner.perform(settings, "train", lambda _: True)
    runner.perform(settings, "train", training)
    assert logged(settings, range(2)) == "lacks steps 2 to 3"
    storage.delete(settings.path("summaries", "train.json"))
    assert logged(settings, range(2)) is None


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null", b'{"timesteps": 3, "by_size": [{}]}'])
def test_a_document_of_another_shape_costs_its_part_alone(
    settings: Settings, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.put(settings.path("evaluate", "losses.json"), content)
    page = shown(settings)
    assert page.count("<section") == 6
    assert page.count("<video ") == N_VIDEOS
    if content != b"{}":
        assert "This part cannot be shown." in page
        assert "the part 'Training' is missing from the page" in capsys.readouterr().out


def test_a_sidecar_that_is_gone_does_not_keep_its_video_from_showing(settings: Settings) -> None:
    broken = {"text": None, "from a picture": b"{", "goes on from <this>": b"[]"}
    for name, content in broken.items():
        path = output_of(settings, name).with_suffix(".json")
        path.write_bytes(content) if content else path.unlink()
    page = shown(settings)
    assert page.count("<video ") == N_VIDEOS
    assert page.count("Its sidecar cannot be read") >= 3


def test_conditioning_frames_are_shown_also_if_their_media_have_gone(settings: Settings) -> None:
    source_of(settings, "dahlia.jpg").unlink()
    page = shown(settings)
    assert page.count("<video ") == N_VIDEOS
    assert page.count("<em>given</em>") == N_GIVEN


def test_conditioning_frames_are_marked_if_no_picture_of_them_was_kept(settings: Settings) -> None:
    """Neither in the sidecar, as an earlier release wrote it, nor next to the output."""
    whole = shown(settings)
    old = str(output_of(settings, "from a picture").with_suffix(".json"))
    document = storage.read_json(old)
    del document["conditioning"]
    storage.put_json(old, document)
    output_of(settings, "goes on from <this>").with_suffix(".first.jpg").unlink()
    page = shown(settings)
    assert page.count("<video ") == N_VIDEOS
    assert whole.count("<em>given</em>") - page.count("<em>given</em>") == 2
    assert page.count('<div class="strip">') == whole.count('<div class="strip">') == N_WITH_MEDIA


def test_sources_are_shown_as_they_are_encoded_without_their_bars(settings: Settings) -> None:
    frames = np.zeros((25, 80, 112, 3), np.uint8)
    frames[:, 20:60] = 200
    source = str(write_video(source_of(settings, "bunny.mp4"), frames))
    within = {"crop_top": 0.25, "crop_height": 0.5, "height": 40, "version": storage.version(source)}
    change(
        settings.path("clips", "clips.parquet"),
        lambda row: row | (within if row["name"] == "bunny.mp4" else {}),
    )
    gallery = shown(settings).partition('id="what-went-in"')[2]
    pictures = re.findall(r"data:image/webp;base64,([^\"]+)", gallery)
    sizes = {Image.open(io.BytesIO(base64.b64decode(p))).size: base64.b64decode(p) for p in pictures}
    assert (112, 40) in sizes
    assert np.asarray(Image.open(io.BytesIO(sizes[112, 40])).convert("L")).min() > 60


def test_held_out_samples_are_not_counted_as_training_samples(finished_run: Settings, html: str) -> None:
    n_held_out = sum(why is None for name in ("tower.mp4", "dahlia.jpg") for _, why in sources.CLIPS[name])
    n = sum(why is None for cut in sources.CLIPS.values() for _, why in cut)
    n_train = n - n_held_out
    summary = accounting.figures(read(finished_run))
    assert (summary["samples"], summary["samples_train"], summary["samples_val"]) == (n, n_train, n_held_out)
    assert f"<b>{n_train}</b><span>training samples</span>" in html
    assert f"<b>{n_held_out}</b><span>held-out samples, {n_held_out / n:.1%} of all</span>" in html
    assert f"They became {n_train} samples to train on and {n_held_out} held out." in html


def test_a_run_that_only_generates_has_a_report(settings: Settings) -> None:
    for name in ("clips", "videos", "latents", "train", "evaluate"):
        storage.delete(settings.path(name))
    for stage in ("clips", "encode", "train", "evaluate"):
        storage.delete(settings.path("summaries", f"{stage}.json"))
    summary = report.run(settings)
    n, n_refused = len(REQUESTS), len(WRONG)
    assert (summary["requests"], summary["outputs"]) == (n + n_refused, n)
    assert "missing" not in summary
    assert not {"samples", "videos_in", "steps"} & summary.keys()
    page = flat(storage.read_bytes(settings.path("report.html")))
    assert page.count("<video ") == N_VIDEOS
    became = f"{n + n_refused} requests became {n} outputs; refused or failed: {n_refused}."
    assert f"{became} Nothing is unaccounted for." in page
    assert re.findall(r"<h2>([^<]*)", page) == ["Generated", "The ledger", "Settings"]


def test_a_folder_in_which_nothing_has_run_is_told() -> None:
    with pytest.raises(FileNotFoundError, match=r"no stage has ended in .*; run one first"):
        report.run(config.load(None, ["run.folder=/nowhere"]))


def test_what_is_lost_is_told_in_the_page_before_the_command_fails(settings: Settings) -> None:
    index = f"{latents_folder(settings)}/index.parquet"
    lost = storage.rows(index)[-1]["clip_id"]
    change(index, lambda row: None if row["clip_id"] == lost else row)
    with pytest.raises(
        accounting.NotAccounted, match=f"clip that became neither a sample nor a drop: {lost}"
    ):
        report.run(settings)
    page = flat(storage.read_bytes(settings.path("report.html")))
    assert "Not accounted for: 1 × clip that became neither" in page
    assert "Nothing is unaccounted for" not in page


def test_a_file_without_a_clip_says_why(html: str) -> None:
    assert "no clip is kept: no_caption 1" in html
    assert "no sample came of it: no_bucket 1" in html
    assert html.count(">ok<") == sum(any(why is None for _, why in cut) for cut in sources.CLIPS.values())


def test_a_file_is_ok_while_its_samples_are_not_known(settings: Settings) -> None:
    storage.delete(f"{latents_folder(settings)}/index.parquet")
    assert shown(settings).count(">ok<") == len(KEPT)


def lengthened(row: dict[str, Any], path: str, detail: str) -> dict[str, Any]:
    """What is written by people or by others, longer than any of it is."""
    long = {"name": path, "caption": detail, "custom_id": "x" * 5000, "detail": row["detail"] and detail}
    return {name: text for name, text in long.items() if name in row}


def test_a_prompt_of_a_megabyte_and_a_path_of_thousands_are_shown_in_part(settings: Settings) -> None:
    before = len(shown(settings))
    sidecar = str(output_of(settings, "text").with_suffix(".json"))
    storage.put_json(sidecar, storage.read_json(sidecar) | {"prompt": "begin " + "words " * 200_000 + "end"})
    path, detail = "deep/" * 800 + "a.mp4", "because " * 20_000
    for table in ("videos/videos", "clips/clips", "outputs/batch/manifest"):
        change(settings.path(f"{table}.parquet"), lambda row: row | lengthened(row, path, detail))
    page = shown(settings)
    assert len(page) < before + 60_000
    assert "begin words" in page
    assert "…" in page
    words = page[page.index("<main>") : page.index('id="settings"')]
    assert max(map(len, re.findall(r">([^<]+)<", words))) < 1_000


def test_one_of_a_kind_is_no_plural(settings: Settings) -> None:
    summary = settings.path("summaries", "train.json")
    storage.put_json(summary, storage.read_json(summary) | {"ranks": 1})
    page = shown(settings)
    assert "on 1 rank with" in page
    assert "so 1 rank finishes together" in page
    assert not re.search(r"\b1 (ranks|files|samples|requests|outputs|packs|frames)\b", page)
