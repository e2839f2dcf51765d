"""Generate a file of requests with a run's model; submitted again, it does what is missing.

    ray job submit --working-dir . -- python jobs/generate.py settings.toml [--set generate.requests=s3://bucket/requests.jsonl]

The same as `vitascope generate …` on a machine of the cluster.
"""

import sys

from vitascope.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
