"""Checks settings against the cluster, before money is spent.

    ray job submit --working-dir . -- python jobs/doctor.py settings.toml

The same as `vitascope doctor …` on a machine of the cluster.
"""

import sys

from vitascope.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
