"""Measure a run's model on its held-out samples.

    ray job submit --working-dir . -- python jobs/evaluate.py settings.toml

The same as `vitascope evaluate …` on a machine of the cluster.
"""

import sys

from vitascope.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
