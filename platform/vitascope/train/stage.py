"""Trains on Ray: worker group, restarts, the final model."""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
from ray.exceptions import RayActorError, RayTaskError

from vitascope import checksum, storage
from vitascope.cluster.local import check_room, connect
from vitascope.cluster.placement import node_labels
from vitascope.config import Settings
from vitascope.encode.codecs import make_codec
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.text import make_text_encoder
from vitascope.errors import Mistake
from vitascope.feed.plan import ranks_advice
from vitascope.feed.source import has_samples, planned, samples_digest
from vitascope.model.formats.card import ModelCard, load_card, save_model
from vitascope.model.formats.purpose import as_trained
from vitascope.model.formats.start import started_from
from vitascope.model.networks import shapes_of, trained_shapes
from vitascope.progress import Stopped, say, track
from vitascope.stages import resources
from vitascope.stages.registry import Summary
from vitascope.stages.running import running, summary_location
from vitascope.train import log, stopping
from vitascope.train.engine import ZERO_STAGE
from vitascope.train.job import Job, check_identity, checkpoint_states, state_in
from vitascope.train.loop import worker
from vitascope.train.shards import ShardedState

COLLECTIVE_TIMEOUT_S = 1800  # above the slowest checkpoint


def run(settings: Settings) -> Summary:
    """Trains to the last step, continuing from the run's newest checkpoint, if any.

    Returns the summary, also written to summaries/train.json.

    Raises:
        Missing: no latents are encoded yet.
        Mistake: there are no samples to train on, a sample exceeds the token budget, or the run's
            checkpoints were made with other settings or are beyond the last step.
        Stopped: it was asked to stop before the last step, and that state is committed.
    """
    with running(settings, "train") as summary:
        summary |= _trained(settings)
    return summary


def _trained(settings: Settings) -> Summary:
    _check_samples(settings)
    job = plan_job(settings)
    _check_resumable(job)
    if not _is_trained(settings):
        _check_plan(job)
        connect(settings.cluster)
        takes = resources.of_training(settings)
        check_room(settings.cluster, f"train's {takes.processes}", cpus=takes.cpus, gpus=takes.gpus)
        with _progress(job):
            _publish_on_node(settings, _fit_or_stop(job))
    card = load_card(settings.path("model"))
    rows, feed = log.read(job.metrics), settings.feed
    step_tokens = np.mean([row["tokens"] for row in rows if "tokens" in row])
    say("train", f"the model is in {settings.path('model')}, the log of its steps in {job.metrics}")
    return summarize(rows) | {
        "val_levels": list(job.probe.levels),
        "pack_fill": float(step_tokens) / (feed.packs_per_step * feed.token_budget),
        "ranks": settings.train.ranks,
        "zero_stage": ZERO_STAGE,
        "precision": card.precision,
        "n_parameters": _count(shapes_of(card.model, card.channels, card.text_dim)),
        "n_trained_parameters": _count(trained_shapes(card.model, card.channels, card.text_dim)),
    }


def _count(shapes: Mapping[str, Sequence[int]]) -> int:
    return sum(map(prod, shapes.values()))


def _is_trained(settings: Settings) -> bool:
    """Whether the run's model has already had all its steps."""
    try:
        return load_card(settings.path("model")).step == settings.train.steps
    except FileNotFoundError:
        return False


def plan_job(settings: Settings) -> Job:
    """The job for the latents that the settings name.

    Raises:
        Missing: they are not encoded yet.
        Mistake: the weights to start from are damaged, or for other latents or noise levels.
    """
    folder = latents_folder(settings)
    encoded = storage.read_json(storage.join(folder, "encode.json"))
    card = ModelCard(
        model=settings.model,
        step=0,
        codec=make_codec(settings.encode).fingerprint,
        text=make_text_encoder(settings.encode).fingerprint,
        **{key: encoded[key] for key in ("encode", "channels", "text_dim", "fingerprint")},
    )
    if location := settings.model.start_from:
        card = started_from(card, location)
    card = as_trained(card, settings.train)
    return Job(settings, folder, settings.path("train", "metrics"), samples_digest(folder), card)


def _check_samples(settings: Settings) -> None:
    """Refuses latents without training samples before any worker starts, with the outcome of the clips."""
    if has_samples(latents_folder(settings), "train"):
        return
    summaries = (summary_location(settings, stage) for stage in ("clips", "encode"))
    reasons: Counter[str] = Counter()
    for summary in filter(storage.exists, summaries):
        reasons.update(storage.read_json(summary)["dropped_by_reason"])
    dropped = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common()) or "nothing"
    raise Mistake(
        f"no samples to train on; files and clips dropped: {dropped}. {settings.path('videos')} and "
        f"{settings.path('clips')} say why; each file needs a caption, and not all may be held out"
    )


def _check_resumable(job: Job) -> None:
    """Refuses a run folder with checkpoints of another run or a longer one, before any worker starts."""
    steps = job.settings.train.steps
    for state in checkpoint_states(job.settings):
        check_identity(state, job)
        if state.step > steps:
            raise Mistake(
                f"run.folder holds a checkpoint after {state.step} steps, got train.steps = {steps}; "
                f"set train.steps to {state.step} or more, or use another run.folder"
            )


def _check_plan(job: Job) -> None:
    """Refuses samples that fit no pack before any worker starts, and reports why ranks will wait."""
    if has_samples(job.latents, "val"):
        planned(job.source("val", job.probe))
    planner = planned(job.source("train", job.draws)).planner
    ranks = ranks_advice(planner.packs_per_step, job.settings.train.ranks)
    for advice in filter(None, (ranks, planner.advice())):
        say("train", advice)


def _fit(job: Job) -> ray.train.Checkpoint | None:
    """Trains to the last step and returns the last checkpoint.

    A worker that dies at a certain moment of the group's start ends Ray Train's controller, regardless of
    `max_failures` (Ray 2.60); the run then continues with a new controller, up to that many times.
    """
    for failures_left in reversed(range(job.settings.train.max_failures + 1)):
        try:
            return _trainer(job).fit().checkpoint
        except ray.train.ControllerError as error:
            if not (failures_left and isinstance(error.controller_failure, RayActorError)):
                raise
    raise AssertionError("the last try returns")


def _fit_or_stop(job: Job) -> ray.train.Checkpoint:
    """`_fit`, unless this process or the run is asked to stop.

    Raises:
        Stopped: the ranks have written a checkpoint and left, or no ranks were running.
        KeyboardInterrupt: the same, after Ctrl-C.
        Mistake: the run had to end because values were not finite.
    """
    checkpoint, interrupted = None, False
    with stopping.passed_on(job.stop_request) as asked:
        try:
            checkpoint = _fit(job)
        except (KeyboardInterrupt, SystemExit, RayActorError, ray.train.ControllerError):
            if not asked.came:  # otherwise it is how Ray Train ends a controller without ranks
                raise
            interrupted = True
    if not interrupted and (failed := log.failure(job.metrics)):  # otherwise an earlier try's
        raise Mistake(failed)
    steps, done = job.settings.train.steps, _step_of(checkpoint) if checkpoint else 0
    if checkpoint is None or done < steps:
        after = f" after step {done} of {steps}" if done else ""
        kind = KeyboardInterrupt if asked.by_keyboard else Stopped
        raise kind(f"training was asked to stop and did{after}; run it again to continue")
    return checkpoint


def _step_of(checkpoint: ray.train.Checkpoint) -> int:
    """Reads only the state file: `as_directory` would fetch the whole checkpoint."""
    assert checkpoint.filesystem is not None  # Ray Train gives every checkpoint one
    with checkpoint.filesystem.open_input_stream(storage.join(checkpoint.path, "state.json")) as file:
        return int(json.loads(file.read())["step"])


class _Trainer(ray.train.torch.TorchTrainer):
    """Ray's trainer, which leaves Ctrl-C to `stopping.passed_on`: Ray would write no checkpoint."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def _trainer(job: Job) -> ray.train.torch.TorchTrainer:
    train = job.settings.train
    filesystem, path = storage.arrow_filesystem(job.settings.path("train"))
    return _Trainer(
        worker,
        train_loop_config={"job": job},
        torch_config=ray.train.torch.TorchConfig(
            backend="nccl" if train.use_gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=train.ranks,
            use_gpu=train.use_gpu,
            label_selector=node_labels(job.settings, "train"),  # type: ignore[call-arg] # v2 has it
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=train.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=train.checkpoints_kept),
        ),
    )


def _publish_on_node(settings: Settings, checkpoint: ray.train.Checkpoint) -> None:
    """`_publish_model` on a train node: its memory and disk can hold the model, the head's may not."""
    place = {"num_cpus": 1, "label_selector": node_labels(settings, "train")}
    try:
        ray.get(ray.remote(_publish_model).options(**place).remote(settings, checkpoint))
    except RayTaskError as error:
        raise error.cause from None  # as if it had been raised here


def _publish_model(settings: Settings, checkpoint: ray.train.Checkpoint) -> None:
    """Assembles the EMA weights of a checkpoint in the run's model folder."""
    with checkpoint.as_directory() as folder:
        state = state_in(folder)
        card = ModelCard.model_validate_json(checksum.read(storage.join(folder, "model.json")))
        if state.updates == 0:
            raise Mistake(
                f"none of the {state.step} steps could be applied, since no loss or gradient was finite; "
                f"no model is published. {settings.path('train', 'not_finite')} names their samples"
            )
        source = ShardedState(folder, state.ranks)
        weights = {name: source.whole(f"ema/{name}", shape) for name, shape in state.shapes.items()}
        save_model(settings.path("model"), weights, card)


def summarize(rows: list[log.Row]) -> Summary:
    """The figures of a run from its log: losses at both ends, medians of rates, fractions of the whole."""
    steps = [row for row in rows if "loss" in row]
    held_out = [row["val_loss"] for row in rows if row.get("val_loss") is not None]
    ends = max(1, min(10, len(steps) // 4))
    losses = [row["loss"] for row in steps if row["loss"] is not None]
    seconds = np.array([row["step_s"] for row in steps])
    return {
        "steps": len(steps),
        "steps_skipped": sum(int(row["not_finite"]) for row in steps),
        "train_loss_first": float(np.mean(losses[:ends])) if losses else None,
        "train_loss_last": float(np.mean(losses[-ends:])) if losses else None,
        "val_loss_first": held_out[0] if held_out else None,
        "val_loss_last": held_out[-1] if held_out else None,
        "tokens_per_s": float(sum(row["tokens"] for row in steps) / seconds.sum()),
        "useful_token_share": float(np.average([row["useful_token_share"] for row in steps])),
        "cost_spread_p99": float(np.quantile([row["cost_spread"] for row in steps], 0.99)),
        "planned_busy_share": float(np.mean([1 / (1 + row["cost_spread"]) for row in steps])),
        "data_wait_share": float(np.average([row["data_wait_share"] for row in steps], weights=seconds)),
        "flops_per_s": float(np.median([row["flops_per_s"] for row in steps])),
    }


@contextmanager
def _progress(job: Job) -> Iterator[None]:
    """Reports the workers' precision, and shows the newest step of the log while they run."""
    done = threading.Event()
    storage.delete(job.start)  # an earlier run's
    with track(job.settings.train.steps, "train") as advance:
        advance(0, note="starting the workers")
        watcher = threading.Thread(target=_watch, args=(job, done, advance), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _watch(job: Job, done: threading.Event, advance: Any) -> None:
    shown, stopping, announced = 0, False, False
    while not stopping:
        stopping = done.wait(timeout=1.0)
        if not announced and storage.exists(job.start):
            say("train", storage.read_json(job.start)["chosen"])
            announced = True
        if row := log.last_row(job.metrics):
            loss = "loss not finite" if row["loss"] is None else f"loss {row['loss']:.4f}"
            advance(row["step"] + 1 - shown, note=f"{loss}  {row['tokens_per_s']:,.0f} tokens/s")
            shown = row["step"] + 1
