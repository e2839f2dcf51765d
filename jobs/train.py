"""Train on the latents of a run; submitted again, it continues where it stopped.

    ray job submit --working-dir . -- python jobs/train.py settings.toml [--set train.ranks=8]

The same as `vitascope train …` on a machine of the cluster.
"""

import sys

from vitascope.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
