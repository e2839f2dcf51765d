"""Progress from costs, wishes that outlast the job, and what outputs took."""

import time
from pathlib import Path

import pytest

from vitascope import storage
from vitascope.cli import main
from vitascope.errors import Mistake
from vitascope.generate.batch import control
from vitascope.generate.batch.batch import _file_names
from vitascope.generate.batch.control import Wish
from vitascope.generate.batch.figures import Made, figures, sentence
from vitascope.generate.batch.progress import Estimate, Progress, State, duration

HALF = Progress(State.RUNNING, 1000.0, 40, 38, {"invalid_request": 2}, 100, False, 0.5, 3725.0)


def test_the_time_left_follows_from_costs_and_not_from_counts() -> None:
    estimate = Estimate()
    estimate.read([20.0] * 10 + [1.0] * 100, 120, 1.0)  # ten lines are no requests
    estimate.work(0.0, goes_on=True)
    assert estimate.left_s(5.0) is None
    for _ in range(10):
        estimate.done(20.0, earlier=False)
    assert estimate.left_s(100.0) == pytest.approx(50)  # a twelfth of the requests is two thirds of the work
    assert (estimate.total, estimate.fraction_done) == (120, pytest.approx(2 / 3))


def test_time_in_a_pause_does_not_count_and_nor_does_earlier_work() -> None:
    estimate = Estimate()
    estimate.read([1.0] * 100, 100, 1.0)
    estimate.work(0.0, goes_on=True)
    for number in range(60):
        estimate.done(1.0, earlier=number < 50)
    estimate.work(10.0, goes_on=False)
    estimate.work(1000.0, goes_on=True)
    assert estimate.left_s(1010.0) == pytest.approx(80)  # 10 in 20 s, and 40 are left
    assert estimate.fraction_done == pytest.approx(0.6)


def test_what_is_not_read_yet_is_taken_to_be_as_what_is() -> None:
    estimate = Estimate()
    estimate.work(0.0, goes_on=True)
    estimate.read([2.0] * 10, 10, 0.1)
    estimate.done(20.0, earlier=False)
    assert (estimate.total, estimate.fraction_done) == (100, pytest.approx(0.1))
    assert estimate.left_s(10.0) == pytest.approx(90)
    nothing = Estimate()
    assert (nothing.total, nothing.fraction_done, nothing.left_s(1.0)) == (0, 0.0, None)


def test_a_report_is_sentences_and_says_when_it_is_old() -> None:
    text = "\n".join(HALF.lines(now=1001.0))
    assert "40 of about 100 requests: 38 outputs, without: invalid_request 2" in text
    assert "50 % of the work, about 1:02:05 left" in text
    assert "no job has reported" not in text
    assert "no job has reported for 0:02:00" in HALF.lines(now=1120.0)[-1]
    assert duration(59.6) == "0:01:00"


@pytest.mark.parametrize("wish", Wish)
def test_a_wish_outlasts_the_job(tmp_path: Path, wish: Wish) -> None:
    folder = str(tmp_path / "outputs")
    assert control.wished(folder) is Wish.RESUME
    assert control.reported(folder) is None
    control.ask(folder, wish)
    control.report(folder, HALF)
    assert control.wished(folder) is wish
    assert control.reported(folder) == HALF
    storage.put(storage.join(folder, ".batch", "wish.json"), b'{"wish": "stop"}')
    with pytest.raises(Mistake, match="delete it to let the batch go on"):
        control.wished(folder)


def test_the_command_asks_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    where = ["--set", f"run.folder={tmp_path}", "--set", "generate.batch=b"]
    assert main(["batch", "status", *where]) == 0
    assert "no job has worked on this batch yet" in capsys.readouterr().out
    control.report(str(tmp_path / "outputs" / "b"), Progress(**vars(HALF) | {"at": time.time()}))
    assert main(["batch", "pause", *where]) == 0
    said = capsys.readouterr().out
    assert "40 of about 100 requests" in said
    assert "a pause was asked for" in said
    assert control.wished(str(tmp_path / "outputs" / "b")) is Wish.PAUSE
    assert main(["batch", "resume", *where]) == 0
    assert "was asked for" not in capsys.readouterr().out


def test_figures_are_of_the_devices_and_of_each_mode() -> None:
    made = {"image": Made(1, 0.0, 36.0), "text_to_video": Made(1, 5.0, 100.0) + Made(2, 10.0, 224.0)}
    found = figures(made, 4.0)
    assert found["all"] == {
        "clips": 4,
        "video_s": 15.0,
        "device_hours": pytest.approx(0.1),
        "clips_per_device_hour": pytest.approx(40),
        "video_s_per_device_hour": pytest.approx(150),
        "cost_per_clip": pytest.approx(0.1),
    }
    assert found["text_to_video"]["cost_per_clip"] == pytest.approx(324 / 3600 * 4 / 3)
    assert sentence(found) == (
        "4 outputs took 0.1 device-hours in passes: 40 outputs and 150 s of video per device-hour, "
        "0.1 per output"
    )
    assert "cost_per_clip" not in figures(made, None)["image"]
    assert figures({}, 1.0) == figures({"image": Made(1)}, 1.0) == {}
    assert sentence({}) is None


@pytest.mark.parametrize("where", ["local", "s3", "gs"])
def test_the_names_of_millions_of_files_are_read_by_the_page(
    request: pytest.FixtureRequest, tmp_path: Path, where: str
) -> None:
    root = str(tmp_path) if where == "local" else request.getfixturevalue(where)
    folder = storage.join(root, "outputs")
    assert list(_file_names(folder)) == []
    n = 9 if where == "gs" else 1005  # a page of S3 has 1000
    fs, path = storage.filesystem(folder)
    for number in range(n):
        storage.put(storage.join(folder, f"r{number}.json"), b"{}") if where != "s3" else None
    if where == "s3":
        fs.pipe({f"{path}/r{number}.json": b"{}" for number in range(n)})
    storage.put(storage.join(folder, "below", "r.json"), b"{}")
    storage.put(storage.join(root, "outputs-2", "r.json"), b"{}")
    names = list(_file_names(folder))
    assert sorted(set(names) - {"below"}) == sorted(f"r{number}.json" for number in range(n))
    assert len(names) == len(set(names))
