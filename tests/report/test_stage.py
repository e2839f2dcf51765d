"""The report is one page that opens offline and shows everything that was made."""

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import make_run, put, wave
from PIL import Image

from vitascope import config, records, storage
from vitascope.clips.table import CLIPS, VIDEOS
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.media.mp4 import media_bytes
from vitascope.report import accounting
from vitascope.report import stage as report
from vitascope.report.dataset import read


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
    assert len(videos) == 5
    assert all(str(v["src"]).startswith("data:video/mp4;base64,") for v in videos)
    assert all({"autoplay", "loop", "muted"} <= v.keys() for v in videos)


def test_given_frames_stand_beside_what_was_made_of_them(html: str) -> None:
    assert html.count("<em>given</em>") == 1 + 1 + 1 + 2  # from an image, on, before, and between two


def test_prompts_names_and_reasons_are_text_and_not_markup(html: str) -> None:
    assert "go on from &lt;this&gt;" in html
    assert "not a &lt;video&gt;" in html
    for expected in ("empty.mp4", "too_short", "no_bucket", "unknown key &#39;heigth&#39;", "waves, take"):
        assert expected in html


def test_plots_follow_the_colours_of_the_page(html: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(plots) == 5
    assert all("currentColor" in plot and "#010203" not in plot for plot in plots)


def shown(settings: Settings) -> str:
    report.run(settings)
    return flat(storage.read_bytes(settings.path("report.html")))


def source_of(settings: Settings, name: str) -> Path:
    return Path(settings.path("inputs", name))


def replaced(path: Path) -> None:
    path.write_bytes(media_bytes(wave(16, 64, 64, 0.9), 8.0)[0])


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
def test_a_source_that_is_broken_since_costs_its_own_picture_alone(tmp_path: Path, how: str) -> None:
    settings = make_run(tmp_path)
    BREAKING[how](source_of(settings, "wave.mp4"))
    page = shown(settings)
    gallery = page[page.index('id="what-went-in"') :]
    assert gallery.count("data:image/webp") == 1  # the picture of a.png
    assert gallery.count('<div class="none">') == 1
    assert "<video " in page
    assert "FileNotFoundError" in page if how == "gone" else "source changed" in page


@pytest.mark.parametrize("how", BREAKING)
def test_an_output_that_is_broken_since_says_so_in_its_place(tmp_path: Path, how: str) -> None:
    settings = make_run(tmp_path)
    BREAKING[how](Path(settings.path("outputs", "batch", "r0.mp4")))
    page = shown(settings)
    assert page.count("<video ") == 4
    assert ("The file has been replaced" if how == "replaced" else "The output cannot be shown") in page


@pytest.mark.parametrize("how", ["gone", "empty", "junk"])
def test_any_file_of_the_run_may_be_broken(tmp_path: Path, how: str) -> None:
    """Each in turn is named in the page, and in summary.json, and the rest is shown."""
    settings = make_run(tmp_path)
    tables = {
        "videos/videos.parquet": "videos",
        "clips/clips.parquet": "clips",
        "evaluate/losses.json": "losses.json",
        "outputs/batch/manifest.parquet": "manifest.parquet",
        "model/model.json": "model",
        "train/metrics/00000000.jsonl": "metrics",
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


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null", b'{"timesteps": 3, "by_size": [{}]}'])
def test_a_document_of_another_shape_costs_its_part_alone(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_run(tmp_path)
    storage.put(settings.path("evaluate", "losses.json"), content)
    page = shown(settings)
    assert page.count("<section") == 6
    assert page.count("<video ") == 5
    if content != b"{}":
        assert "This part cannot be shown." in page
        assert "the part 'Training' is missing from the page" in capsys.readouterr().out


def test_a_sidecar_that_is_gone_does_not_keep_its_video_from_showing(tmp_path: Path) -> None:
    settings = make_run(tmp_path)
    for name, content in (("r0.json", None), ("r2.json", b"{"), ("r3.json", b"[]")):
        path = Path(settings.path("outputs", "batch", name))
        path.write_bytes(content) if content else path.unlink()
    page = shown(settings)
    assert page.count("<video ") == 5
    assert page.count("Its sidecar cannot be read") >= 3


def test_conditioning_frames_are_shown_also_if_their_media_have_gone(tmp_path: Path) -> None:
    settings = make_run(tmp_path)
    source_of(settings, "a.png").unlink()
    page = shown(settings)
    assert page.count("<video ") == 5
    assert page.count("<em>given</em>") == 5


def test_conditioning_frames_are_marked_if_no_picture_of_them_was_kept(tmp_path: Path) -> None:
    """Neither in the sidecar, as an earlier release wrote it, nor next to the output."""
    settings = make_run(tmp_path)
    whole = shown(settings)
    old = settings.path("outputs", "batch", "r2.json")
    document = storage.read_json(old)
    del document["conditioning"]
    storage.put_json(old, document)
    storage.delete(settings.path("outputs", "batch", "r3.first.jpg"))
    page = shown(settings)
    assert page.count("<video ") == 5
    assert whole.count("<em>given</em>") - page.count("<em>given</em>") == 2
    assert page.count('<div class="strip">') == whole.count('<div class="strip">') == 4


def test_sources_are_shown_as_they_are_encoded_without_their_bars(tmp_path: Path) -> None:
    settings = make_run(tmp_path)
    bars = np.zeros((16, 120, 160, 3), np.uint8)
    bars[:, 30:90] = wave(16, 60, 160, 0.3) // 2 + 127
    source = source_of(settings, "wave.mp4")
    source.write_bytes(media_bytes(bars, 8.0)[0])
    clips = storage.rows(settings.path("clips"))
    for row in clips:
        if row["name"] == "wave.mp4":
            row |= {
                "crop_top": 0.25,
                "crop_height": 0.5,
                "height": 60,
                "version": storage.version(str(source)),
            }
    put(settings.path("clips", "clips.parquet"), clips, CLIPS)
    gallery = shown(settings).partition('id="what-went-in"')[2]
    pictures = re.findall(r"data:image/webp;base64,([^\"]+)", gallery)
    sizes = {Image.open(io.BytesIO(base64.b64decode(p))).size: base64.b64decode(p) for p in pictures}
    assert (160, 60) in sizes
    assert np.asarray(Image.open(io.BytesIO(sizes[160, 60])).convert("L")).min() > 60


def test_held_out_samples_are_not_counted_as_training_samples(tmp_path: Path) -> None:
    settings = make_run(tmp_path, n_val=2)
    summary = report.run(settings)
    assert (summary["samples"], summary["samples_train"], summary["samples_val"]) == (8, 6, 2)
    page = shown(settings)
    assert "<b>6</b><span>training samples</span>" in page
    assert "<b>2</b><span>held-out samples, 25.0% of all</span>" in page
    assert "They became 6 samples to train on and 2 held out." in page


def test_a_run_that_only_generates_has_a_report(tmp_path: Path) -> None:
    settings = make_run(tmp_path)
    for name in ("clips", "videos", "latents", "train", "evaluate"):
        storage.delete(settings.path(name))
    for stage in ("clips", "encode", "train", "evaluate"):
        storage.delete(settings.path("summaries", f"{stage}.json"))
    summary = report.run(settings)
    assert (summary["requests"], summary["outputs"]) == (7, 6)
    assert "missing" not in summary
    assert not {"samples", "videos_in", "steps"} & summary.keys()
    page = flat(storage.read_bytes(settings.path("report.html")))
    assert page.count("<video ") == 5
    assert "7 requests became 6 outputs; refused or failed: 1. Nothing is unaccounted for." in page
    assert re.findall(r"<h2>([^<]*)", page) == ["Generated", "The ledger", "Settings"]


def test_a_folder_in_which_nothing_has_run_is_told() -> None:
    with pytest.raises(FileNotFoundError, match=r"no stage has ended in .*; run one first"):
        report.run(config.load(None, ["run.folder=/nowhere"]))


def test_what_is_lost_is_told_in_the_page_before_the_command_fails(tmp_path: Path) -> None:
    settings = make_run(tmp_path)
    index = f"{latents_folder(settings)}/index.parquet"
    put(index, storage.rows(index)[:-1], records.SAMPLES)
    with pytest.raises(accounting.NotAccounted, match="clip that became neither a sample nor a drop: c9"):
        report.run(settings)
    page = flat(storage.read_bytes(settings.path("report.html")))
    assert "Not accounted for: 1 × clip that became neither" in page
    assert "Nothing is unaccounted for" not in page


def test_a_file_without_a_clip_says_why(tmp_path: Path) -> None:
    settings = make_run(tmp_path)
    clips = storage.rows(settings.path("clips"))
    for row in clips:
        if row["name"] == "a.png":
            row |= records.dropped("filter_contrast", "0.01, the limit is 0.1")
    put(settings.path("clips", "clips.parquet"), clips, CLIPS)
    index = f"{latents_folder(settings)}/index.parquet"
    put(index, [row for row in storage.rows(index) if row["name"] != "a.png"], records.SAMPLES)
    page = shown(settings)
    assert "no clip is kept: filter_contrast 1" in page
    assert page.count(">ok<") == 1


def test_a_prompt_of_a_megabyte_and_a_path_of_thousands_are_shown_in_part(tmp_path: Path) -> None:
    settings = make_run(tmp_path)
    before = len(shown(settings))
    sidecar = settings.path("outputs", "batch", "r0.json")
    storage.put_json(sidecar, storage.read_json(sidecar) | {"prompt": "begin " + "words " * 200_000 + "end"})
    path, detail = "deep/" * 800 + "a.mp4", "because " * 20_000
    for table, schema in (("videos/videos", VIDEOS), ("clips/clips", CLIPS)):
        location = settings.path(f"{table}.parquet")
        rows = storage.rows(location)
        for row in rows:
            row |= {"name": path, "detail": row["detail"] and detail}
            row |= {"caption": detail} if "caption" in row else {}
        put(location, rows, schema)
    manifest = settings.path("outputs", "batch", "manifest.parquet")
    rows = storage.rows(manifest)
    put(manifest, [row | {"custom_id": "x" * 5000, "detail": detail} for row in rows], records.MANIFEST)
    page = shown(settings)
    assert len(page) < before + 60_000
    assert "begin words" in page
    assert "…" in page
    words = page[page.index("<main>") : page.index('id="settings"')]
    assert max(map(len, re.findall(r">([^<]+)<", words))) < 1_000


def test_one_of_a_kind_is_no_plural(tmp_path: Path) -> None:
    settings = make_run(tmp_path)
    summary = settings.path("summaries", "train.json")
    storage.put_json(summary, storage.read_json(summary) | {"ranks": 1})
    page = shown(settings)
    assert "on 1 rank with" in page
    assert "so 1 rank finishes together" in page
    assert not re.search(r"\b1 (ranks|files|samples|requests|outputs|packs|frames)\b", page)
