"""Counts the files that a second run of the clips stage reads, over a folder that has grown a little.

    python jobs/bench/incremental.py [--files 10000] [--new 100] [--changed 10]

Makes small pictures, each with a caption; runs the stage; adds some, changes some and runs it again. A file
is looked at if it was read and decoded, as the stage counts it. `equal` says whether the second run's tables
of videos and of clips equal those of a first run over the same files.

The last line is one JSON object; ratio is the second run's time divided by that of a run from nothing.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vitascope import storage
from vitascope.clips.stage import run
from vitascope.config import Settings
from vitascope.stages.registry import Summary


def picture(path: Path, seed: int) -> None:
    """A unique picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).resize((96, 72), Image.Resampling.NEAREST).save(path, quality=90)
    path.with_suffix(".txt").write_text(f"picture {seed}")


def clips(source: Path, folder: Path) -> tuple[Summary, float]:
    """The stage's summary, and the seconds it took."""
    sections = {"run": {"folder": str(folder)}, "clips": {"input": str(source)}}
    started = time.monotonic()
    summary = run(Settings.model_validate(sections))
    return summary, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--new", type=int, default=100)
    parser.add_argument("--changed", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source, grown, fresh = (Path(scratch) / name for name in ("in", "grown", "fresh"))
        source.mkdir()
        for i in range(args.files):
            picture(source / f"{i:06d}.jpg", i)
        first, _ = clips(source, grown)
        for i in range(args.files, args.files + args.new):
            picture(source / f"{i:06d}.jpg", i)
        for i in range(args.changed):
            picture(source / f"{i:06d}.jpg", args.files + args.new + i)
        again, again_s = clips(source, grown)
        whole, whole_s = clips(source, fresh)
        tables = [
            [storage.rows(str(folder / name)) for name in ("videos", "clips")] for folder in (grown, fresh)
        ]
    result = {
        "files": whole["videos_in"],
        "first_looked_at": first["scanned"],
        "again_looked_at": again["scanned"],
        "again_captions_read": again["captions_read"],
        "again_s": round(again_s, 1),
        "whole_s": round(whole_s, 1),
        "ratio": round(again_s / whole_s, 4),
        "equal": tables[0] == tables[1],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
