"""Trains one epoch of samples that are hard to level, with the code of this tree and of another commit.

    python jobs/bench/hostile_train.py --against COMMIT [--rounds 2]

Latents are random numbers of two sizes: 64 patches, and a few of 1,024, which is the token budget. Each run
is `vitascope train` on 2 ranks, on a local Ray; the two trees alternate. An epoch holds the same samples in
both, in the steps of each tree's planner, so the tokens per second show the fraction of the ranks' time that
is work. The first steps, while everything is being loaded, do not count.

The last line is one JSON object, an entry for each mix of sizes: steps of the epoch, busy (the planned mean
time of a rank divided by the busiest one's) and tokens_per_s of each tree, and ratio, this tree's
tokens_per_s divided by the other's.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

HERE = Path(__file__).resolve()
SMALL, GIANT = (1, 16, 16), (4, 32, 32)  # 64 and 1,024 patches
MIXES = {"one giant in 600": (600, 600), "a tenth giants": (400, 10)}
"""The number of samples, and n if one in n is a giant."""
CHANNELS, TEXT_DIM, WARM_UP = 16, 64, 2
SETTINGS = [
    *("model.depth=4", "model.width=192", "model.heads=6", "feed.token_budget=1024"),
    *("feed.packs_per_step=2", "train.ranks=2", "train.warmup_steps=2", "train.lr=1e-4"),
    *("train.val_every=100000", "train.checkpoint_every=100000"),
]
FLOAT32 = ("train.precision=float32", "train.bf16=false")  # the second at earlier commits


class Epoch(NamedTuple):
    """Steps of an epoch, the planned busy ratio of its ranks, and tokens per second."""

    steps: int
    busy: float
    tokens_per_s: float


def trained(folder: str, mix: str) -> Epoch:
    """One epoch with the package that this process imports."""
    import train_step  # of the same tree

    from vitascope import cli, config, storage
    from vitascope.encode.fingerprint import latents_folder
    from vitascope.feed.source import planned
    from vitascope.train import log

    trainer = importlib.import_module(cli.load_stage("train").__module__)

    def settings(steps: int) -> Any:
        for precision in FLOAT32:
            try:
                own = [*SETTINGS, precision, f"run.folder={folder}", f"train.steps={steps}"]
                return config.load(None, own)
            except config.SettingsError:
                continue
        raise ValueError("this commit has no setting for float32")

    n_samples, every = MIXES[mix]
    sizes = [SMALL] * (every - 1) + [GIANT]
    latents = latents_folder(settings(1))
    shapes = train_step.Shapes(sizes, n_samples, CHANNELS, TEXT_DIM, 0, [])
    train_step.make_latents(latents, shapes)
    described = {"channels": CHANNELS, "text_dim": TEXT_DIM, "fingerprint": "random", "patch": 2}
    encode = settings(1).encode.model_dump(mode="json")
    storage.put_json(storage.join(latents, "encode.json"), described | {"encode": encode})
    job = trainer.plan_job(settings(1))
    steps = planned(job.source("train", job.draws)).planner.steps_in_epoch(0)
    trainer.run(settings(steps))
    rows = [row for row in log.read(settings(steps).path("train", "metrics")) if "tokens" in row]
    counted = rows[WARM_UP:]
    return Epoch(
        steps,
        busy=statistics.fmean(1 / (1 + row["cost_spread"]) for row in rows),
        tokens_per_s=sum(row["tokens"] for row in counted) / sum(row["step_s"] for row in counted),
    )


def run(tree: Path, mix: str) -> Epoch:
    """`trained` in a separate process, with the package of a tree."""
    path = os.pathsep.join([str(tree / "platform"), str(tree / "jobs" / "bench")])
    with TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE), "--one", folder, mix]
        environment = os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tree} failed on {mix}:\n{done.stderr}")
    return Epoch(**json.loads(done.stdout.splitlines()[-1]))


def compared(ours: Path, theirs: Path, mix: str, rounds: int) -> dict[str, object]:
    """Both trees in turn, and the ratio of the medians."""
    runs: dict[str, list[Epoch]] = {"before": [], "now": []}
    for _ in range(rounds):
        for name, tree in (("before", theirs), ("now", ours)):
            runs[name].append(run(tree, mix))
            print(mix, name, runs[name][-1]._asdict(), flush=True)
    medians = {name: statistics.median(e.tokens_per_s for e in epochs) for name, epochs in runs.items()}
    trees = {name: epochs[0]._replace(tokens_per_s=medians[name]) for name, epochs in runs.items()}
    figures = {name: epoch._asdict() for name, epoch in trees.items()}
    return figures | {"ratio": medians["now"] / medians["before"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--against", metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "MIX"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(trained(*options.one)._asdict()))
        return
    if not options.against:
        parser.error("name the commit to compare with: --against COMMIT")
    ours = HERE.parents[2]
    with TemporaryDirectory() as folder:
        theirs = Path(folder) / "tree"
        git = ["git", "-C", str(ours), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(theirs), options.against], check=True)
        try:
            results = {mix: compared(ours, theirs, mix, options.rounds) for mix in MIXES}
        finally:
            subprocess.run([*git, "remove", "--force", str(theirs)], check=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
