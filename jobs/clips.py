"""Cut videos and images into the clip table.

    ray job submit --working-dir . -- python jobs/clips.py settings.toml [--set clips.input=s3://bucket/videos]

The same as `vitascope clips …` on a machine of the cluster.
"""

import sys

from vitascope.cli import main

if __name__ == "__main__":
    sys.exit(main(["clips", *sys.argv[1:]]))
