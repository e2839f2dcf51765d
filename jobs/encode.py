"""Encode the clips of a run into latent shards.

    ray job submit --working-dir . -- python jobs/encode.py settings.toml

The same as `vitascope encode …` on a machine of the cluster.
"""

import sys

from vitascope.cli import main

if __name__ == "__main__":
    sys.exit(main(["encode", *sys.argv[1:]]))
