"""The flow continues with the first unfinished stage, and with those that follow."""

from pathlib import Path
from typing import Any

import pytest

from vitascope import config
from vitascope.config import Settings
from vitascope.errors import Missing, Mistake
from vitascope.stages import runner
from vitascope.stages.registry import FLOW
from vitascope.stages.runner import Mark

STAGES = ["clips", "encode", "data", "train", "generate", "evaluate", "report"]


def settings(folder: Path, *overrides: str) -> Settings:
    return config.load(None, [f"run.folder={folder}", *overrides])


def marks(of: Settings) -> dict[str, Mark]:
    return {stage: Mark(runner.digest(of, stage), runner.deciding(of, stage)) for stage in FLOW}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ("clips.fps=12", "clips"),
        ("encode.max_text_tokens=64", "encode"),
        ("feed.token_budget=4096", "encode"),
        ("train.lr=3e-4", "train"),
        ("generate.steps=3", "generate"),
        ("evaluate.timesteps=[0.5]", "evaluate"),
    ],
)
def test_a_change_begins_at_the_stage_that_it_decides(tmp_path: Path, change: str, first: str) -> None:
    finished = marks(settings(tmp_path))
    todo = runner.unfinished(settings(tmp_path, change), finished)
    assert todo == STAGES[STAGES.index(first) :]


def test_captions_of_a_model_are_a_stage_where_they_are_asked_for(tmp_path: Path) -> None:
    asked = settings(tmp_path, "caption.source=endpoint", "caption.endpoint_model=m")
    assert runner.unfinished(asked, {}) == ["clips", "caption", *STAGES[1:]]
    assert runner.unfinished(asked, marks(settings(tmp_path)))[0] == "caption"


EXECUTION = {
    "clips.catalog",
    *(f"caption.{key}" for key in ("workers", "clips_per_part", "batch_size", "worker_cpus", "use_gpu")),
    "caption.in_flight",
    *("encode.gpus", "encode.nvdec_gpus", "feed.latents", "feed.prefetch_packs", "evaluate.cpus"),
    *(f"train.{key}" for key in ("ranks", "use_gpu", "activation_checkpointing", "max_failures")),
    *("train.checkpoint_every", "train.checkpoints_kept"),
    *(f"generate.{key}" for key in ("max_in_flight", "denoise_replicas", "denoise_cpus", "use_gpu")),
    *(f"generate.{key}" for key in ("text_replicas", "decode_replicas", "idle_s", "traces", "traced_share")),
    *("generate.text_gpus", "generate.decode_gpus", "generate.tries", "generate.device_hour_price"),
    *(f"generate.{key}" for key in ("follow_s", "save_state_s", "queue_s", "longest_request_s")),
    *(f"prompts.{key}" for key in ("timeout_s", "retries", "audit_days", "in_flight", "cpus", "use_gpu")),
}
"""The settings that affect only placement and speed; cluster has no others, and no stage reads serve."""


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, dict):
        return value | {"another": 1.0}
    if isinstance(value, tuple):
        return (*value, "another")
    return "another"


def every_setting() -> list[str]:
    own = config.load(None)
    return [f"{section}.{key}" for section, fields in own for key in type(fields).model_fields]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", every_setting())
def test_where_and_how_fast_the_work_runs_redoes_nothing_and_all_else_does(name: str, tmp_path: Path) -> None:
    own = settings(tmp_path, "caption.source=endpoint", "caption.endpoint_model=m")
    section, key = name.split(".")
    before = getattr(own, section)
    changed = own.model_copy(update={section: before.model_copy(update={key: other(getattr(before, key))})})
    todo = runner.unfinished(changed, marks(own))
    assert (todo == []) is (section in ("cluster", "serve") or name in EXECUTION)


def test_captions_switched_on_later_begin_at_the_captions(tmp_path: Path) -> None:
    """Clips are compared whether they have captions or not, so that no other clips are needed."""
    asked = settings(tmp_path, "caption.source=endpoint", "caption.endpoint_model=m")
    assert runner.digest(asked, "clips") == runner.digest(settings(tmp_path), "clips")


def test_what_has_changed_is_named_with_both_values(tmp_path: Path) -> None:
    before = settings(tmp_path)
    now = settings(
        tmp_path, "clips.fps=12", "clips.filters.motion.min=0.5", "train.ranks=7", "clips.input=in"
    )
    assert runner.plan_lines(now, runner.unfinished(now, marks(before)), marks(before)) == [
        f"to be done again: {', '.join(STAGES)}, because of changed settings:",
        "  clips.input: not set before, in now",
        "  clips.fps: 8.0 before, 12.0 now",
        "  clips.filters.motion.min: 0.002 before, 0.5 now",
    ]
    assert runner.changed_before(now, "encode", marks(before))[1] == "clips.fps: 8.0 before, 12.0 now"
    assert runner.changed_before(now, "clips", marks(before)) == []
    assert runner.plan_lines(before, [], marks(before)) == []
    assert runner.plan_lines(now, FLOW, {}) == []  # nothing was made yet


def test_what_the_stages_need_of_the_user_is_looked_for_before_any_of_them_starts(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    bare = settings(tmp_path)
    with pytest.raises(Mistake, match=r"clips\.input is not set, and clips needs it"):
        runner.check_inputs(bare, STAGES)
    some = settings(tmp_path, f"clips.input={tmp_path}/in", f"generate.requests={tmp_path}/r.jsonl")
    with pytest.raises(Missing, match=r"nothing is at .*r\.jsonl; set generate\.requests"):
        runner.check_inputs(some, STAGES)
    (tmp_path / "r.jsonl").touch()
    runner.check_inputs(some, STAGES)
    runner.check_inputs(bare, ["train"])


def test_a_stage_can_be_named_to_begin_with(tmp_path: Path) -> None:
    own = settings(tmp_path)
    assert runner.unfinished(own, marks(own), "generate") == ["generate", "evaluate", "report"]
    assert runner.unfinished(own, {}, "generate") == STAGES  # its input is missing
    with pytest.raises(ValueError, match="no stage 'trian'; the flow has clips, caption, encode"):
        runner.unfinished(own, {}, "trian")


def test_a_flow_that_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    own, done = settings(tmp_path), []

    def breaks(stage: str) -> None:
        if stage == "train":
            raise RuntimeError("no nodes")
        done.append(stage)

    with pytest.raises(RuntimeError, match="no nodes"):
        runner.run(own, breaks)
    assert runner.run(own, done.append) == []
    assert done == STAGES
    assert runner.unfinished(own, marks(own)) == []


def test_a_stage_that_is_not_complete_is_passed_and_done_again(tmp_path: Path) -> None:
    own, done = settings(tmp_path), []

    def execute(stage: str) -> bool:
        done.append(stage)
        return stage != "generate"

    assert runner.run(own, execute) == ["generate"]
    assert done == STAGES
    assert runner.run(own, done.append) == []
    assert done[len(STAGES) :] == ["generate", "evaluate", "report"]


def test_a_stage_done_again_makes_what_follows_unfinished(tmp_path: Path) -> None:
    own = settings(tmp_path)
    runner.run(own, lambda _: None)

    def breaks(stage: str) -> None:
        raise RuntimeError(stage)

    with pytest.raises(RuntimeError, match="encode"):
        runner.run(own, breaks, "encode")
    again: list[str] = []
    runner.run(own, again.append)
    assert again == STAGES[1:]
