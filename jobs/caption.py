"""Ask a vision-language model for captions of a run's clips.

    ray job submit --working-dir . -- python jobs/caption.py settings.toml [--set caption.source=endpoint …]

The same as `vitascope caption …` on a machine of the cluster.
"""

import sys

from vitascope.cli import main

if __name__ == "__main__":
    sys.exit(main(["caption", *sys.argv[1:]]))
