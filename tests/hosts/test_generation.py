"""The generation app on a cluster that grows: from no node to several with the queue, and back."""

import json
import sys
from pathlib import Path

import pytest

from hosts.autoscaling import NodeType, autoscaling_cluster
from hosts.namespaces import needs_hosts
from hosts.watch import lives, most
from synthetic import tiny_card
from vitascope import config
from vitascope.model.formats.card import save_model

TYPES = {"generate": NodeType(cpus=4, max_workers=3, idle_timeout_s=10)}

DRIVER = """
import asyncio, json, sys, time
from ray import serve
from vitascope import config
from vitascope.cluster.local import connect
from vitascope.generate.app.build import build
from vitascope.generate.models import open_models
from vitascope.generate.parse import parse
settings = config.load(sys.argv[1])
connect(settings.cluster)
models = open_models(settings)
began, history = time.monotonic(), []

def replicas():
    found = serve.status().applications["app"].deployments["Denoise"].replica_states
    n = found.get("RUNNING", 0)
    if not history or history[-1][1] != n:
        history.append((round(time.monotonic() - began, 1), n))
    return n

async def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition(await asyncio.to_thread(replicas)):
        assert time.monotonic() < deadline, history
        await asyncio.sleep(0.5)
    return round(time.monotonic() - began, 1)

async def main():
    times = {"idle_at_zero_s": await until(lambda n: n == 0, 400)}
    limits, folder = models.limits("/"), settings.path("outputs", "batch")
    left = iter(range(100_000))
    growing, times["asked_s"] = True, round(time.monotonic() - began, 1)
    async def ask():
        while growing:
            fields = {"custom_id": str(next(left)), "prompt": "a", "width": 64, "height": 64, "seconds": 0}
            request = parse(json.dumps(fields | {"steps": 100}), limits)
            answer = await handle.remote(request, models.target(folder, request))
            assert isinstance(answer, dict), answer
            times.setdefault("first_output_s", round(time.monotonic() - began, 1))
    asking = [asyncio.create_task(ask()) for _ in range(30)]
    times["at_most_s"] = await until(lambda n: n == 3, 900)
    growing = False
    await asyncio.gather(*asking)
    times["last_output_s"] = round(time.monotonic() - began, 1)
    times["at_zero_s"] = await until(lambda n: n == 0, 300)
    print(json.dumps({"times": times, "replicas": history, "outputs": next(left)}))

serve.start(proxy_location="Disabled")  # the nodes would share a port
handle = serve.run(build(models, settings), name="app", route_prefix=None)
asyncio.run(main())
"""


@pytest.mark.nightly
@needs_hosts
def test_from_zero_to_all_nodes_and_back_with_the_queue(tmp_path: Path) -> None:
    card = tiny_card()
    save_model(str(tmp_path / "run" / "model"), card.build().state_dict(), card)
    small = ["generate.token_budget=64", "generate.denoise_replicas=3", "generate.denoise_cpus=2"]
    scaling = ["generate.idle_s=20", "generate.queue_s=2", "cluster.place_by_label=true"]
    where = ["cluster.address=127.0.0.1:6379", f"run.folder={tmp_path / 'run'}"]
    (tmp_path / "settings.toml").write_text(config.to_toml(config.load(None, [*small, *scaling, *where])))
    (tmp_path / "cluster").mkdir()
    patient = {"RAY_raylet_start_wait_time_s": "150"}
    with autoscaling_cluster(TYPES, 3, tmp_path / "cluster", env=patient) as cluster:
        command = [sys.executable, "-c", DRIVER, str(tmp_path / "settings.toml")]
        said = json.loads(cluster.run(command, timeout_s=1500).stdout.splitlines()[-1])
        empty_s = cluster.watch.wait_for(lambda sample: not sample.workers, 120, "an empty cluster")
        nodes = lives(cluster.watch.samples)
    times, counts = said["times"], [n for _, n in said["replicas"]]
    print(
        f"\n{said}\n{len(nodes)} nodes came, most {most(nodes and cluster.watch.samples)}; "
        f"the last was gone {empty_s:.1f} s after the last replica"
    )
    assert max(counts) == 3
    assert counts[-1] == 0
    assert 0 in counts[: counts.index(3)], "nothing ran before the first request"
    assert times["at_zero_s"] - times["last_output_s"] >= 20 - 1, (
        "idle_s after the last request at the soonest"
    )
    assert most(cluster.watch.samples) >= 2
    assert all("idle" in node.why for node in nodes)
