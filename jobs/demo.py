"""The whole flow on real video, ending in a report.

    ray job submit --working-dir . -- python jobs/demo.py [settings.toml] [--set clips.input=s3://bucket/videos]

The same as `vitascope demo …` on a machine of the cluster.
"""

import sys

from vitascope.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
