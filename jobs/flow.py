"""All stages as jobs of the cluster, from the first unfinished one.

    ray job submit --working-dir . -- python jobs/flow.py settings.toml

The same as `vitascope flow …` on a machine of the cluster.
"""

import sys

from vitascope.cli import main

if __name__ == "__main__":
    sys.exit(main(["flow", *sys.argv[1:]]))
