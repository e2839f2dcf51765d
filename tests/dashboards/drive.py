"""A short real run on a cluster that somebody watches: videos in, requests answered.

python drive.py FOLDER
"""

import sys
from pathlib import Path

from flow import sources
from flow.finished import REQUESTS, SETTINGS, WRONG
from vitascope import cli, config, storage

TIMES = 6
"""Copies of each request, each with many steps, so that the batch lasts long enough to be watched."""

N_OUTPUTS = TIMES * len(REQUESTS)
STEPS = 60
"""A checkpoint after every tenth step takes two seconds, so that the training can be watched too."""

STAGES = ("clips", "encode", "train", "generate")
OVERRIDES = [
    *(f"train.steps={STEPS}", "train.checkpoint_every=10", "train.val_every=20"),
    *("generate.steps=40", "generate.max_in_flight=4", "generate.token_budget=512"),
]


def main(folder: str) -> None:
    """Runs the flow's stages in `folder`, one after the other, in one process."""
    inputs = Path(folder) / "in"
    inputs.mkdir()
    sources.make(inputs)
    wrong = {name: fields for name, (fields, _) in WRONG.items()}
    requests = [
        {"prompt": f"a {name}"} | fields | {"custom_id": f"{name} {i}", "seed": i}
        for i in range(TIMES)
        for name, fields in (REQUESTS | wrong).items()
    ]
    storage.put(f"{folder}/requests.jsonl", storage.json_lines(requests))
    storage.put(f"{folder}/settings.toml", SETTINGS.replace("BUCKET", folder).encode())
    settings = config.load(f"{folder}/settings.toml", OVERRIDES)
    for stage in STAGES:
        cli.run_stage(stage, settings)


if __name__ == "__main__":
    main(sys.argv[1])
