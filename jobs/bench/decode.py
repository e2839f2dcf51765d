"""Measures reading clips at bucket size, beside the bare decoder in a loop on one core.

    python jobs/bench/decode.py FILE... [--height 256] [--width 448] [--fps 8] [--frames 17] [--repeats 5]

Reading: `read_clip` for one clip after the other, each file cut into clips from its beginning to its end, in
the child process that a timeout can kill. Bare: PyAV steps once through the file in this process and converts
the same frames with the same resize, in a loop that knows nothing of clips, damage or time limits. Both use
one thread, and their frames are compared.

The last line is one JSON object: frames_per_s of each (frames given, not frames decoded), and
ratio_to_decoder, the median over --repeats of their ratio within a repeat, in which the order changes.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vitascope.clips.colour import to_rgb
from vitascope.clips.decode import read_clip
from vitascope.clips.probe import probe


def read(uri: str, facts: dict, n_clips: int, args: argparse.Namespace) -> np.ndarray:
    """The clips' frames (N H W 3), through `read_clip`."""
    what = {"fps": args.fps, "n_frames": args.frames, "size": (args.height, args.width)}
    what |= {key: facts[key] for key in ("rotation_deg", "decoder")}
    return np.concatenate(
        [read_clip(uri, start_s=i * args.frames / args.fps, **what) for i in range(n_clips)]
    )


def bare(uri: str, n_clips: int, args: argparse.Namespace) -> np.ndarray:
    """The same frames, decoded in a loop."""
    swscale = VideoReformatter()
    pictures: list[np.ndarray] = []
    n_wanted = n_clips * args.frames
    with av.open(uri) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        shown: Any = None
        first_s: float | None = None
        for frame in container.decode(stream):
            first_s = frame.time if first_s is None else first_s
            while (
                shown and len(pictures) < n_wanted and len(pictures) / args.fps < frame.time - first_s - 1e-3
            ):
                pictures.append(to_rgb(swscale, shown, (args.height, args.width)))
            if len(pictures) == n_wanted:
                break
            shown = frame
        pictures += [to_rgb(swscale, shown, (args.height, args.width))] * (n_wanted - len(pictures))
    return np.stack(pictures)


def timed(run: Callable[[], list[np.ndarray]]) -> tuple[float, list[np.ndarray]]:
    """Seconds of wall time, and what came out."""
    begun = time.perf_counter()
    frames = run()
    return time.perf_counter() - begun, frames


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", help="upright videos with square pixels")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--frames", type=int, default=17, help="of a clip")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    facts = {uri: probe(uri) for uri in args.files}  # and the child is there before the clock runs
    n_clips = {uri: max(1, int(row["duration_s"] * args.fps / args.frames)) for uri, row in facts.items()}
    ways: dict[str, Callable[[], list[np.ndarray]]] = {
        "read": lambda: [read(uri, facts[uri], n_clips[uri], args) for uri in args.files],
        "bare": lambda: [bare(uri, n_clips[uri], args) for uri in args.files],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(args.repeats):
        frames = {}
        for way in sorted(ways, reverse=repeat % 2 == 0):
            took_s, frames[way] = timed(ways[way])
            seconds[way].append(took_s)
        assert all(map(np.array_equal, frames["read"], frames["bare"])), "the two ways give other frames"
        print(*(f"{way}: {times[-1]:.2f} s" for way, times in seconds.items()), flush=True)
    n_frames = args.frames * sum(n_clips.values())
    result = {
        "files": len(args.files),
        "frames": n_frames,
        "frames_per_s": round(n_frames / float(np.median(seconds["read"])), 1),
        "decoder_frames_per_s": round(n_frames / float(np.median(seconds["bare"])), 1),
        "ratio_to_decoder": round(float(np.median(np.divide(seconds["bare"], seconds["read"]))), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
