"""Pictures of clips, as Ray makes them, and the data page with them."""

import pytest

from vitascope import storage
from vitascope.config import Settings
from vitascope.report import data, thumbnails
from vitascope.report.chosen import choose, wanted
from vitascope.report.dataset import read
from vitascope.report.thumbnails import Wanted

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_pictures_are_of_the_clips_and_one_that_fails_is_shown_as_such(finished_run: Settings) -> None:
    clips = {row["name"]: row for row in storage.rows(finished_run.path("clips"))}
    picture, video = clips["dahlia.jpg"], clips["bunny.mp4"]
    asked = {"still": Wanted(picture), "moving": Wanted(video, moving=True)}
    asked["gone"] = Wanted(video | {"uri": video["uri"].replace("bunny", "gone")})
    made = thumbnails.thumbnails(asked, finished_run)
    assert made["still"].moving is None
    assert made["moving"].still[:4] == made["moving"].moving[:4] == b"RIFF"
    assert made["gone"].still is None
    assert "gone.mp4" in made["gone"].detail
    found = read(finished_run, data_only=True)
    chosen = choose(found)
    html = data.render(found, chosen, dict.fromkeys(wanted(found, chosen), made["gone"])).decode()
    assert "gone.mp4" in html
    assert "<img" not in html


def test_the_stage_writes_the_page_and_says_what_it_shows(
    settings: Settings, capsys: pytest.CaptureFixture
) -> None:
    storage.delete(settings.path("data.html"))
    summary = data.run(settings)
    html = storage.read_bytes(settings.path("data.html")).decode()
    assert summary["pictures"] > 1 == summary["not_decoded"]  # the clip whose decoding fails
    assert html.count("data:image/webp") >= summary["pictures"] - 1
    assert settings.path("data.html") in capsys.readouterr().out
