"""A page about the data, as far as it is there.

    ray job submit --working-dir . -- python jobs/data.py settings.toml

The same as `vitascope data …` on a machine of the cluster.
"""

import sys

from vitascope.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", *sys.argv[1:]]))
