"""The report is one page that opens offline and shows everything that was made."""

import re
from html.parser import HTMLParser

import pytest

from vitascope.config import Settings
from vitascope.observe import accounting, report, results


class Tags(HTMLParser):
    """Collects what a browser would load or show."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def html(finished_run: Settings) -> str:
    found = results.read(finished_run)
    return report.render(found, accounting.figures(found)).decode()


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
    for expected in ("empty.mp4", "too_short", "no_bucket", "unknown key &#x27;heigth&#x27;", "waves, take"):
        assert expected in html


def test_plots_follow_the_colours_of_the_page(html: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(plots) == 5
    assert all("currentColor" in plot and "#010203" not in plot for plot in plots)


def test_media_that_have_gone_do_not_keep_the_rest_from_showing(
    finished_run: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitascope.ledger import Reason, Rejected

    def gone(*_: object) -> None:
        raise Rejected(Reason.MEDIA_MISSING, "no file at a.png")

    monkeypatch.setattr(report, "read_given", gone)
    found = results.read(finished_run)
    page = report.render(found, accounting.figures(found)).decode()
    assert page.count("<video ") == 5
    assert "no file at a.png" in page
