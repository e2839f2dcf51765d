"""The data page shows what the tables hold, whatever they hold, and stays one small file."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vitascope import config, records, storage
from vitascope.caption import answers
from vitascope.clips import table
from vitascope.clips.dedup.joins import duplicate_detail
from vitascope.clips.filters import HOOKS, SCORES
from vitascope.clips.table import CLIPS, VIDEOS
from vitascope.config import Settings
from vitascope.encode.buckets import Limits
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.plan import make_tasks
from vitascope.ledger import Reason, Rejected
from vitascope.report import charts, data, fill, sources, spread, thumbnails, words
from vitascope.report.chosen import choose, copied, wanted
from vitascope.report.dataset import Dataset
from vitascope.report.dataset import read as read_run

EVIL = "</td><script>alert('x')</script><img src=x onerror=alert(1)> & $x^2$ \"q\""
PICTURE = thumbnails.Thumbnail(thumbnails.webp(np.full((1, 12, 16, 3), 90, np.uint8)))


class Page(HTMLParser):
    """The tags of a page, and the cells of its tables by the section they are in."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: dict[str, list[list[str]]] = {}
        self._section, self._in_cell = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_cell = tag in ("td", "th") or (self._in_cell and tag not in ("tr", "table"))
        if tag == "section":
            self._section = str(dict(attrs)["id"])
        elif tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        elif tag in ("td", "th"):
            self.rows[self._section][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, text: str) -> None:
        if self._in_cell:
            self.rows[self._section][-1][-1] += text

    def row(self, section: str, first: str) -> list[str]:
        """The first row of a section that begins with a cell, without that cell."""
        return next(row[1:] for row in self.rows[section] if row[0] == first)


def read(settings: Settings) -> Dataset:
    return read_run(settings, data_only=True)


def settings_in(folder: Path, *overrides: str) -> Settings:
    return config.load(None, [f"run.folder={folder}", *overrides])


def video(i: int, **changes: Any) -> dict[str, Any]:
    row = {"video_id": f"v{i}", "uri": f"/no/v{i}.mp4", "name": f"v{i}.mp4", "kind": "video", "codec": "h264"}
    row["version"] = "1"
    row |= {
        "width": 640,
        "height": 360,
        "fps": 25.0,
        "duration_s": 4.0,
        "size_bytes": 10_000,
        "decoder": "pyav",
    }
    return row | {"rotation_deg": 0} | records.OK | changes


def clip(i: int, of: dict[str, Any], **changes: Any) -> dict[str, Any]:
    shared = ("video_id", "uri", "name", "version", "kind", "width", "height", "rotation_deg", "decoder")
    row = {key: of[key] for key in shared} | {
        "clip_id": f"{of['video_id']}-{i}",
        "split": "train",
        "fps": 8.0,
    }
    row |= {"crop_left": 0.0, "crop_top": 0.0, "crop_width": 1.0, "crop_height": 1.0}
    row |= {"start_s": float(i), "end_s": i + 1.0, "n_frames": 9, "caption": f"clip {i} of a rabbit"}
    return row | dict.fromkeys(SCORES, i % 7 / 7) | records.OK | changes


def write(settings: Settings, videos: list[dict[str, Any]], clips: list[dict[str, Any]]) -> None:
    for name, rows, schema in (("videos", videos, VIDEOS), ("clips", clips, CLIPS)):
        table = pa.Table.from_pylist(rows, schema)
        storage.put_table(settings.path(name, f"{name}.parquet"), table)


def shown(settings: Settings) -> str:
    """The page of a run, every picture grey."""
    found = read(settings)
    chosen = choose(found)
    return data.render(found, chosen, dict.fromkeys(wanted(found, chosen), PICTURE)).decode()


@pytest.fixture
def mixed(tmp_path: Path) -> Settings:
    """Three folders of videos, clips of which some were dropped, an unreadable file; not encoded."""
    settings = settings_in(tmp_path, "encode.max_pixels=14400", "encode.frame_counts=[1,9]")
    videos = [video(i, name=f"{'abc'[i % 3]}/v{i}.mp4") for i in range(9)]
    videos[0] |= {"codec": "vp9", "fps": 29.97}
    lost = video(9, name="c/lost.mp4", decoder=None, width=None) | records.dropped(Reason.UNREADABLE, "junk")
    clips = [clip(i, v) for v in videos for i in range(4)]
    for i in (0, 1):
        clips[i] |= records.dropped("filter_still_share", "still_share 1 > 0.95")
    clips[5] |= records.dropped(Reason.DUPLICATE, duplicate_detail(clips[9]["name"], 1.0, 3.25))
    clips[5]["duplicate_of"] = clips[9]["clip_id"]
    clips[-1]["split"] = "val"
    write(settings, [*videos, lost], clips)
    return settings


def test_its_numbers_are_those_of_the_tables(mixed: Settings) -> None:
    page = Page(shown(mixed))
    assert page.row("overview", "files found")[0] == "10"
    assert page.row("overview", "files that can be used") == ["9", "90.0%", "36.0 s"]
    assert page.row("overview", "clips kept") == ["33", "91.7%", "33.0 s"]
    assert page.row("overview", "val")[1] == "1"
    dropped = {tuple(row[:4]) for row in page.rows["what-was-dropped"]}
    assert ("clips", "filter_still_share", "2", "5.6%") in dropped
    assert ("files", "unreadable", "1", "10.0%") in dropped
    assert page.row("files-and-clips", "h264")[:2] == ["8", "88.9%"]
    assert page.row("files-and-clips", "16:9")[:2] == ["36", "100.0%"]
    assert page.row("sources", "a")[:2] == ["3", "10"]
    assert page.row("duplicates", "c/v2.mp4") == ["1", "100.0%", ""]
    assert page.row("captions", "rabbit")[:2] == ["33", "100.0%"]


def test_a_filters_setting_and_what_it_drops_stand_at_its_score(mixed: Settings) -> None:
    html = shown(mixed)
    block = html[html.index("<h3>max_change</h3>") :]
    block = block[: block.index("<h3>", 10)]
    assert "max_change = {use = &#34;score&#34;, max = 0.55}" in block
    values = read(mixed).numbers("max_change")
    assert f"{(values > 0.55).sum()} of 36 ({(values > 0.55).mean():.2%})" in block
    assert block.count("class=out") == sum(
        v > 0.55 for v in (4 / 7, 5 / 7, 6 / 7) if f"<b>{v:.4g}</b>" in block
    )
    assert "max 0.55" in block  # the line in the plot


def test_what_is_not_encoded_is_planned_as_the_encode_stage_does(mixed: Settings) -> None:
    tasks, _ = make_tasks(table.clip_rows(mixed), mixed.encode, Limits.of(mixed))
    planned = fill.samples_of(read(mixed))
    assert planned.planned
    assert sorted(planned.tokens.tolist()) == sorted(task.n_tokens for task in tasks)
    page = Page(shown(mixed))
    assert page.row("buckets", "all")[:3] == [
        f"{len(tasks)}",
        "100.0%",
        f"{sum(t.n_tokens for t in tasks):,}",
    ]


def test_buckets_are_those_of_the_index_once_it_is_there(finished_run: Settings) -> None:
    index = storage.read_table(storage.join(latents_folder(finished_run), "index.parquet"))
    page = Page(shown(finished_run))
    assert page.row("buckets", "all")[0] == str(len(index))
    heights, widths = index["height"].to_pylist(), index["width"].to_pylist()
    wide = sum(
        size == (9, 80, 112) for size in zip(index["n_frames"].to_pylist(), heights, widths, strict=True)
    )
    assert page.row("buckets", "9x80x112")[0] == str(wide)
    assert page.row("buckets", "9x112x80")[0] == "1"
    assert ["samples", "no_bucket", "1"] in [row[:3] for row in page.rows["what-was-dropped"]]


def test_names_captions_and_reasons_are_text_and_not_markup(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    videos = [video(0, name=f"{EVIL}/{EVIL}", codec=EVIL), video(1, name="b/x.mp4")]
    clips = [clip(i, v, caption=EVIL) for v in videos for i in range(3)]
    clips[0] |= records.dropped(Reason.DUPLICATE, f"the same bytes as {EVIL}")
    clips[1] |= records.dropped("filter_motion", EVIL)
    lost = video(2, name=EVIL, decoder=None) | records.dropped(Reason.UNREADABLE, EVIL)
    write(settings, [*videos, lost], clips)
    html = shown(settings)
    page = Page(html)
    assert {name for name, _ in page.tags} & {"script", "link", "iframe"} == set()
    assert not [a for _, a in page.tags if "onerror" in a]
    assert all(str(a["src"]).startswith("data:image/webp;base64,") for t, a in page.tags if t == "img")
    assert all(str(a["href"]).startswith("#") for t, a in page.tags if t == "a")
    assert html.count("&lt;script&gt;") > 5


def test_a_plot_label_is_no_formula() -> None:
    """Matplotlib would take `$x^2$` for mathematics, and fail on a `$` that is not closed."""
    bins = spread.histogram(np.arange(9.0), np.ones(9, bool), {})
    assert bins is not None
    assert "a $_{ b &lt; c" in charts.histogram(bins, {}, "a $_{ b < c", "clips")


ALL_DROPPED = records.dropped("filter_motion", "motion 0.9 > 0.8")
IMAGE = {"kind": "image", "decoder": "pillow", "duration_s": 0.0, "fps": None}
NO_TIME = {
    "end_s": 0.0,
    "start_s": 0.0,
    "n_frames": 1,
    "motion": None,
    "still_share": None,
    "max_change": None,
}


@pytest.mark.parametrize(
    ("videos", "clips"),
    [
        ([], []),
        ([video(0) | records.dropped(Reason.EMPTY_FILE, "0 bytes")], []),
        ([video(0)], [clip(i, video(0)) | ALL_DROPPED for i in range(3)]),
        ([video(0, **IMAGE)], [clip(0, video(0, **IMAGE), **NO_TIME)]),
        ([video(0)], [clip(i, video(0), caption=None) for i in range(3)]),
        ([video(0)], [clip(i, video(0), **dict.fromkeys(SCORES)) for i in range(3)]),
        ([video(0)], [clip(0, video(0), width=8, height=8)]),
    ],
    ids=["nothing", "no clips", "all dropped", "images", "no captions", "no scores", "no bucket"],
)
def test_tables_without_much_in_them_make_a_page(
    videos: list[dict], clips: list[dict], tmp_path: Path
) -> None:
    settings = settings_in(tmp_path)
    write(settings, videos, clips)
    page = Page(shown(settings))
    assert page.row("overview", "files found")[0] == str(len(videos))
    assert page.row("overview", "clips cut of them")[0] == str(len(clips))


def test_a_damaged_index_is_told_and_its_samples_are_planned(mixed: Settings) -> None:
    index = f"{latents_folder(mixed)}/index.parquet"
    storage.put(index, b"<html>")
    html = shown(mixed)
    assert f"{index} cannot be read" in html
    assert Page(html).row("overview", "samples planned")[0] == "33"


def test_a_part_that_fails_costs_itself_alone(
    mixed: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("a column of another release")

    monkeypatch.setattr(words, "terms", fails)
    page = Page(shown(mixed))
    assert "captions" not in page.rows
    assert page.row("sources", "a")[:2] == ["3", "10"]
    assert "the part 'Captions' is missing from the page (KeyError" in capsys.readouterr().out


def test_long_names_details_and_captions_are_shown_in_part(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    path, long = "deep/" * 800 + "a.mp4", "because " * 2_000
    videos = [video(0, name=path), video(1, name="x" * 4000) | records.dropped(Reason.UNREADABLE, long)]
    clips = [clip(i, videos[0], caption=long) for i in range(3)]
    clips.append(clip(3, videos[0], caption=long) | records.dropped("filter_motion", long))
    write(settings, videos, clips)
    html = shown(settings)
    assert max(map(len, re.findall(r">([^<]+)<", html[html.index("<main>") :]))) < 1_000
    assert max(map(len, re.findall(r'title="([^"]+)"', html))) < 1_000


def test_without_the_clips_stage_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has the stage that writes it been run"):
        data.run(settings_in(tmp_path))


def test_a_page_has_a_bounded_number_of_pictures(tmp_path: Path) -> None:
    """Every score with both limits, every reason, thousands of clips."""
    limits = 'use = "score", min = 0.3, max = 0.6'
    filters = [f"{name} = {{{limits}}}" for name in SCORES]
    filters += [f'{name} = {{{limits}, function = "a:b"}}' for name in HOOKS]
    settings = settings_in(tmp_path, f"clips.filters={{{', '.join(filters)}}}")
    rng, reasons = np.random.default_rng(0), list(Reason)
    videos = [video(i) for i in range(50)]
    clips = []
    for i in range(4000):
        scores = {name: float(rng.random()) for name in (*SCORES, *HOOKS)}
        outcome = records.dropped(reasons[i % len(reasons)], "why") if i % 3 else records.OK
        clips.append(clip(i, videos[i % 50], **scores) | outcome)
    write(settings, videos, clips)
    found = read(settings)
    assert 100 < len(wanted(found, choose(found))) <= 200


def test_a_picture_has_a_bounded_size() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 240, 240, 3), dtype=np.uint8)
    assert len(thumbnails.webp(noise[:1])) <= thumbnails.MOST_BYTES[False]
    assert len(thumbnails.webp(noise, 1.0)) <= thumbnails.MOST_BYTES[True]


def test_captions_of_the_caption_stage_count(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, "caption.source=endpoint", "caption.endpoint_model=m")
    bare = [clip(i, video(0), caption=None) | records.dropped(Reason.NO_CAPTION, "none") for i in range(3)]
    write(settings, [video(0)], bare)
    told = answers.table({("v0-1", "caption"): "a fox in the snow"}, settings.caption)
    storage.put_table(settings.path("captions", "part-0.parquet"), told)
    found = read(settings)
    assert found.clips["caption"].to_pylist() == [None, "a fox in the snow", None]
    assert found.good.tolist() == [False, True, False]
    assert [row["status"] for row in table.clip_rows(settings)] == found.clips["status"].to_pylist()


def test_a_clip_that_the_model_would_not_describe_says_so(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, "caption.source=endpoint", "caption.endpoint_model=m")
    bare = [clip(i, video(0), caption=None) | records.dropped(Reason.NO_CAPTION, "none") for i in range(4)]
    write(settings, [video(0)], bare)
    told: dict[tuple[str, str], str | Rejected] = {("v0-1", "caption"): "a fox in the snow"}
    told["v0-2", "caption"] = Rejected(Reason.CAPTION_REFUSED, "I'm sorry")
    told["v0-3", "caption"] = Rejected(Reason.CAPTION_FAILED, "status 500")
    told["cut no more", "caption"] = Rejected(Reason.CAPTION_FAILED, "status 500")
    storage.put_table(settings.path("captions", "part-0.parquet"), answers.table(told, settings.caption))
    html = shown(settings)
    dropped = Page(html).rows["what-was-dropped"]
    assert ["clips", "no_caption", "3", "75.0%", "none"] in dropped
    assert ["captions", "caption_refused", "1", "33.3%", "I'm sorry"] in dropped
    assert ["captions", "caption_failed", "1", "33.3%", "status 500"] in dropped
    assert "caption_refused: 1 of 3 captions" in html
    off = settings_in(tmp_path)
    assert "caption_refused" not in shown(off)


def test_a_duplicate_is_shown_beside_what_is_kept(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    clips = [
        clip(i, video(v, name=name)) for v, name in enumerate(("a at 2 s.mp4", "b.mp4")) for i in range(3)
    ]
    for copy, kept in ((3, 1), (5, 2)):
        clips[copy] |= records.dropped(Reason.DUPLICATE, "a detail") | {
            "duplicate_of": clips[kept]["clip_id"]
        }
    write(settings, [video(0), video(1)], clips)
    found = read(settings)
    assert found.kept_of.tolist() == [-1, -1, -1, 1, -1, 2]
    assert choose(found).duplicates == [(3, 1), (5, 2)]
    assert copied(found) == {"a at 2 s.mp4": 2}


def dataset_of(tmp_path: Path, seconds: dict[str, int], lost: str = "") -> Dataset:
    """A video of each name, so many seconds long, with a clip for each; those of `lost` dropped."""
    settings = settings_in(tmp_path)
    videos = [video(i, name=name, duration_s=float(n)) for i, (name, n) in enumerate(seconds.items())]
    clips = [clip(i, v) for v, n in zip(videos, seconds.values(), strict=True) for i in range(n)]
    bad = records.dropped("filter_motion", "too much")
    write(settings, videos, [c | (bad if lost and c["name"] == lost else {}) for c in clips])
    return read(settings)


def test_sources_that_have_too_much_or_too_little_are_named(tmp_path: Path) -> None:
    seconds = {"a/x.mp4": 30, "b/y.mp4": 8, "c/z.mp4": 2, "d/w.mp4": 10, "e/v.mp4": 10}
    found = dataset_of(tmp_path, seconds, lost="d/w.mp4")
    shares = sources.sources(found, fill.samples_of(found))
    assert shares.by == "folder"
    assert [shares.names[i] for i in shares.over] == ["a"]
    assert [shares.names[i] for i in shares.under] == ["d", "c"]
    assert [shares.names[i] for i in shares.lost] == ["d"]
    a = shares.names.index("a")
    assert shares.input_share[a] == pytest.approx(30 / 60)
    assert shares.second_share[a] == shares.token_share[a] == pytest.approx(30 / 50)


def test_a_source_of_which_no_file_can_be_read_is_named_as_lost(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    good = [video(i, name=f"good/{i}.mp4") for i in range(2)]
    junk = {"duration_s": None} | records.dropped(Reason.UNREADABLE, "junk")
    bad = [video(2 + i, name=f"bad/{i}.mp4") | junk for i in range(4)]
    write(settings, [*good, *bad], [clip(i, v) for v in good for i in range(4)])
    page = Page(shown(settings))
    assert page.row("sources", "Lost on the way") == [
        "bad (0.0%)",
        "half of its share of the input or less, or no clip kept",
    ]
    assert page.row("sources", "bad")[:3] == ["4", "0", "0.0%"]
    assert page.row("sources", "good")[:3] == ["2", "8", "100.0%"]


def test_the_source_that_lost_most_is_named_first(tmp_path: Path) -> None:
    found = dataset_of(tmp_path, {"a/x.mp4": 20, "b/y.mp4": 4, "c/z.mp4": 2}, lost="c/z.mp4")
    junk = {"duration_s": None} | records.dropped(Reason.UNREADABLE, "junk")
    bad = [video(3 + i, name=f"d/{i}.mp4") | junk for i in range(3)]
    videos = pa.concat_tables([found.videos, pa.Table.from_pylist(bad, found.videos.schema)])
    found = dataclasses.replace(found, videos=videos)
    shares = sources.sources(found, fill.samples_of(found))
    assert [shares.names[i] for i in shares.lost] == ["d", "c"]


def test_files_are_the_sources_where_there_are_no_folders(tmp_path: Path) -> None:
    found = dataset_of(tmp_path, {"x.mp4": 3, "y.mp4": 1})
    shares = sources.sources(found, fill.samples_of(found))
    assert (shares.by, shares.names) == ("file", ["x.mp4", "y.mp4"])
    assert shares.clip_share.tolist() == [0.75, 0.25]


def test_languages_are_told_apart_and_terms_are_counted_by_captions() -> None:
    pytest.importorskip("py3langid")
    said = ["A dog runs along the beach in the evening sun", "the dog, the dog and the DOG"]
    said += ["Ein Hund rennt am Strand entlang und bellt", "一只狗在海滩上奔跑", "..."]
    said += ["colour bars", "test pattern", "un chat noir"]  # too short to tell
    told = words.languages(said)
    assert told is not None
    assert told["en"] == 2
    assert told == {"en": 2, "de": 1, "zh": 1, "unclear": 4}
    assert words.terms(said)["dog"] == 2
    assert "the" not in words.terms(said)


def test_without_the_detector_the_page_says_how_to_have_it(
    mixed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "languages", lambda _: None)
    assert 'pip install "vitascope[languages]"' in shown(mixed)


def test_a_large_table_is_sampled_where_that_is_said(
    mixed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "SAMPLE", 10)
    html = shown(mixed)
    assert "Languages in a sample of 10" in html
    assert re.search(r"Clips that are kept: 33; with a caption: 33 \(100.0%\)", html)
