"""The flow on three hosts, one of which goes in the middle of every stage: nothing is lost or doubled."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flow import sources
from hosts.namespaces import Command, needs_hosts, wait_until
from hosts.netns import Net, hosts
from vitascope import config, storage
from vitascope.config import Settings
from vitascope.stages.runner import stages
from vitascope.train import log

pytestmark = [pytest.mark.nightly, needs_hosts, pytest.mark.timeout(2400)]
VITASCOPE = str(Path(sys.executable).parent / "vitascope")
WORK = {"clips": "TASKS", "encode": "TASKS", "train": "RayTrainWorker", "generate": "Denoise"}
"""What does the work of a stage, as Ray names it."""
COPIES, REQUESTS, STEPS, CHECKPOINTS_EVERY = 8, 12, 800, 300
NOTICE_S = 20
LABELS, CPUS = {"vitascope-node": "any"}, 4

SETTINGS = f"""
[run]
folder = "FOLDER/run"
[clips]
input = "FOLDER/in"
captions = "FOLDER/captions.csv"
duplicates = "keep"
[encode]
max_pixels = 9216
frame_counts = [1, 9, 17]
shard_tokens = 1000
[feed]
token_budget = 512
packs_per_step = 2
[model]
depth = 2
width = 64
heads = 4
[train]
ranks = 2
steps = {STEPS}
val_every = 1000
checkpoint_every = {CHECKPOINTS_EVERY}
[generate]
requests = "FOLDER/requests.jsonl"
steps = 60
"""


def prepared(folder: Path) -> Settings:
    """Many copies of the sources, so that a stage takes long enough to lose a host in its middle."""
    (folder / "first").mkdir()
    sources.make(folder / "first")
    rows = ["name,caption"]
    for n in range(COPIES):
        for source in sorted((folder / "first").iterdir()):
            if source.suffix in (".mp4", ".jpg"):
                name = f"{source.stem}-{n}{source.suffix}"
                storage.put(f"{folder}/in/{name}", source.read_bytes())
                rows.append(f"{name},{source.stem} number {n}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    wanted = {"prompt": "a rabbit", "width": 112, "height": 80, "seconds": 9 / 8}
    storage.put(
        f"{folder}/requests.jsonl",
        storage.json_lines(wanted | {"custom_id": str(n)} for n in range(REQUESTS)),
    )
    (folder / "settings.toml").write_text(SETTINGS.replace("FOLDER", str(folder)))
    return config.load(str(folder / "settings.toml"))


@pytest.fixture
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with hosts(2, tmp_path_factory.mktemp("net")) as net:
        net.start_head()
        for i in (1, 2):
            net.start_worker(i, LABELS, num_cpus=CPUS, wait=False)
        for i in (1, 2):
            net.wait_alive(i)
        yield net


def cut(net: Net, i: int) -> str:
    """Cut off until the cluster misses it, then healed."""
    net.cut(i)
    missed_s = net.wait_gone(i)
    return f"cut, missed after {missed_s:.0f} s, healed after {net.heal(i):.0f} s more"


def drained(net: Net, i: int) -> str:
    """Taken back by the cloud after a notice; another takes its place."""
    net.drain(i, deadline_s=NOTICE_S)
    net.wait_killed(i)
    missed_s = net.wait_gone(i)
    replaced_s = net.start_worker(i, LABELS, num_cpus=CPUS)
    return f"{NOTICE_S} s notice, missed {missed_s:.0f} s after it, replaced after {replaced_s:.0f} s more"


@pytest.mark.parametrize("lose", [cut, drained])
def test_a_worker_lost_in_every_stage_costs_what_was_not_committed(
    net: Net, tmp_path: Path, lose: Callable[[Net, int], str]
) -> None:
    settings = prepared(tmp_path)
    flow = net.popen(
        "head", [VITASCOPE, "submit", "flow", str(tmp_path / "settings.toml"), "--address", net.address]
    )
    for stage, what in WORK.items():
        wait_until(lambda stage=stage: begun(flow, stage), 600, f"{stage}; {flow.said()}")
        began = time.monotonic()
        i = busy_worker(net, what)
        wait_until(lambda stage=stage: in_its_middle(settings, stage), 300, f"the middle of {stage}")
        how = lose(net, i)
        print(f"\n{stage:>9}  worker {i} lost {time.monotonic() - began:.0f} s into it: {how}", end="")
    flow.result(1500, check=True)
    seconds = dict(re.findall(r"(\w+)  done in (\d+) s", flow.out.read_text()))
    print("\n" + ", ".join(f"{stage} {seconds[stage]} s" for stage in stages(settings)))
    check_nothing_lost_or_doubled(settings)
    resumed = [int(Path(file).stem) for file in storage.list_files(settings.path("train", "metrics"))]
    print(f"training's checkpoints: {resumed}")
    at_notice = [step for step in resumed if step % CHECKPOINTS_EVERY]
    assert bool(at_notice) == (lose is drained)  # with a notice it checkpoints at once


def begun(flow: Command, stage: str) -> bool:
    assert flow.poll() is None, flow.said()
    return f"  job {stage}-" in flow.out.read_text()


def busy_worker(net: Net, what: str) -> int:
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    found = net.run("head", [sys.executable, "-m", "hosts.busy", net.address, what], **path).stdout.split()[
        -1
    ]
    return next(i for i in (1, 2) if (node := net.node(i)) and node.ip == found)


def in_its_middle(settings: Settings, stage: str) -> bool:
    """Something is done, and something is left."""
    if stage == "train":
        row = log.last_row(settings.path("train", "metrics"))
        return row is not None and row["step"] > CHECKPOINTS_EVERY + 10
    if stage == "generate":
        outputs = settings.path("outputs", settings.generate.batch)
        return any(file.endswith(".json") for file in storage.list_files(outputs))
    return True


def check_nothing_lost_or_doubled(settings: Settings) -> None:
    """The report's stage has found all files, clips and requests accounted for; here each step and output."""
    summary = storage.read_json(settings.path("summary.json"))
    assert summary["outputs"] == REQUESTS
    assert summary["videos_in"] == COPIES * len(SOURCES)
    dropped = summary["dropped_by_reason"]
    assert {reason: n / COPIES for reason, n in dropped.items()} == PER_COPY
    steps = [row["step"] for row in log.read(settings.path("train", "metrics")) if "loss" in row]
    assert steps == list(range(STEPS))
    files = storage.list_files(settings.path("outputs", settings.generate.batch))
    assert sum(file.endswith(".mp4") for file in files) == REQUESTS


SOURCES = [name for name in (*sources.BAD, *sources.CLIPS) if name.endswith((".mp4", ".jpg"))]
PER_COPY = {
    "unreadable": 2,
    "empty_file": 1,
    "no_video_stream": 1,
    "decode_failed": 1,
    "filter_still_share": 1,  # nothing moves in turned.mp4
}
