"""Checks before any worker of a training run starts."""

from pathlib import Path

import pytest

from synthetic import make_run
from vitascope import config, storage
from vitascope.errors import Mistake
from vitascope.feed.plan import Position
from vitascope.train import stage as trainer
from vitascope.train.job import State, check_identity
from vitascope.train.stage import plan_job

FAR_APART = [(1, 8, 12), (4, 16, 16)]
"""Latent sizes of 24 and 256 patches."""


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops a run just before it requests its workers."""

    def refuse(_: object) -> None:
        raise ConnectionError("asked for workers")

    monkeypatch.setattr(trainer, "connect", refuse)


def test_locations_mean_the_same_in_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train gives its workers a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    job = plan_job(make_run("runs/relative"))
    assert job.metrics == str(tmp_path / "runs/relative/train/metrics")
    assert job.latents.startswith(str(tmp_path / "runs/relative/latents/"))


def test_without_samples_the_reasons_are_named_and_no_worker_starts(tmp_path: Path) -> None:
    settings = make_run(str(tmp_path), n_samples=0, n_shards=1)
    counted = {"clips": {"no_caption": 4, "unreadable": 1}, "encode": {"no_bucket": 2}}
    for stage, reasons in counted.items():
        storage.put_json(settings.path("summaries", f"{stage}.json"), {"dropped_by_reason": reasons})
    with pytest.raises(ValueError, match="no_caption 4, no_bucket 2, unreadable 1"):
        trainer.run(settings)


def test_without_latents_the_stage_to_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="vitascope encode"):
        trainer.run(config.load(None, [f"run.folder={tmp_path}"]))


@pytest.mark.usefixtures("no_workers")
def test_a_sample_beyond_the_budget_is_named_and_no_worker_starts(tmp_path: Path) -> None:
    settings = make_run(str(tmp_path), ["feed.token_budget=255"], sizes=FAR_APART)
    with pytest.raises(
        ValueError, match=r"has 256 tokens, more than the budget of 255: set feed\.token_budget"
    ):
        trainer.run(settings)


@pytest.mark.usefixtures("no_workers")
def test_fewer_steps_than_a_checkpoint_has_are_refused_and_no_worker_starts(tmp_path: Path) -> None:
    settings = make_run(str(tmp_path), ["train.steps=8"])
    identity = plan_job(settings).identity
    state = State(step=10, ranks=1, shapes={}, identity=identity, position=Position())
    storage.put_json(settings.path("train", "checkpoints", "step-00000010", "state.json"), state.model_dump())
    with pytest.raises(
        ValueError, match=r"after 10 steps, got train\.steps = 8; set train\.steps to 10 or more"
    ):
        trainer.run(settings)


def test_a_checkpoint_of_a_release_with_fewer_settings_of_the_model_is_continued(tmp_path: Path) -> None:
    job = plan_job(make_run(str(tmp_path / "run")))
    model = {key: value for key, value in job.identity["model"].items() if key not in ("network", "ffn")}
    earlier = State(step=1, ranks=1, shapes={}, identity=job.identity | {"model": model}, position=Position())
    check_identity(earlier, job)
    other = plan_job(make_run(str(tmp_path / "other"), ["model.network=wan"]))
    with pytest.raises(Mistake, match="'network': 'wan'"):
        check_identity(earlier, other)


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    ("budget", "ranks", "expected"),
    [(256, 2, ["ranks will wait "]), (256, 1, ["ranks will wait "]), (4096, 2, [])],
)
def test_ranks_that_will_wait_are_announced_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: int, ranks: int, expected: list[str]
) -> None:
    overrides = [f"feed.token_budget={budget}", f"train.ranks={ranks}"]
    settings = make_run(str(tmp_path), overrides, sizes=FAR_APART)
    with pytest.raises(ConnectionError, match="asked for workers"):
        trainer.run(settings)
    printed = capsys.readouterr().out
    assert printed.count("     train  ranks will wait ") == len(expected)


@pytest.mark.usefixtures("no_workers")
def test_ranks_that_do_not_divide_the_packs_are_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_run(str(tmp_path), ["train.ranks=3", "feed.packs_per_step=4", "feed.token_budget=4096"])
    with pytest.raises(ConnectionError, match="asked for workers"):
        trainer.run(settings)
    assert "set feed.packs_per_step to 3 or 6, or train.ranks to 2 or 4" in capsys.readouterr().out


def test_a_checkpoint_of_a_release_that_counted_no_updates_made_one_in_every_step() -> None:
    document = {"step": 5, "ranks": 1, "shapes": {"bias": [3]}, "identity": {}, "position": {"step": 5}}
    state = State(**document)
    assert (state.updates, state.position, state.made_with) == (5, Position(step=5), {})
