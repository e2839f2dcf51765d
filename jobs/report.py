"""The summary and the report of a finished run.

    ray job submit --working-dir . -- python jobs/report.py settings.toml

The same as `vitascope report …` on a machine of the cluster.
"""

import sys

from vitascope.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
