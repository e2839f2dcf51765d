"""A short real run on a cluster that somebody watches: videos in, requests answered.

python drive.py FOLDER
"""

import sys
from pathlib import Path

from flow import sources
from flow.finished import REQUESTS, SETTINGS, WRONG
from vitascope import cli, config, storage

TIMES = 6
"""Each request comes as often, each with many steps, so that there is time to watch the batch."""

N_OUTPUTS = TIMES * len(REQUESTS)
STEPS = 60
"""With a checkpoint after every tenth, which takes two seconds, there is time to watch the training too."""

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
