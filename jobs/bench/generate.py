"""Measures requests that share passes against one request at a time and against same-shape batches.

    python jobs/bench/generate.py [--rounds 5] [--threads 2] [--steps 4 6 8] [--plot FILE] [--parts below …]

The model is a small DiT with random weights, on a CPU in float32. Its saturation point is measured first,
with one thread in processor time.

below: 64 requests of 6 sizes, 3 step counts and 4 modes, half of them guided, each far below saturation.
    Three ways take turns, in an order that rotates: our engine with all requests at once; one request at a
    time, in a plain loop over its steps; batches of the requests that have the same size, steps and guidance.
    Network, solver and passes are the same code. `equal` says whether the latents of the first two differ by
    1e-5 at most, `largest_difference` by how much.
above: requests whose passes each exceed the saturation point, with the engine and one at a time.
poisson: requests of the smallest size arrive at random, for 30 % of the time that they take alone; then the
    same together with requests of the largest size, for 40 % of the time. p95_small_over_alone is the small
    ones' 95th percentile of the time from arrival to end, with the large ones over without. The same with
    first in, first out, one at a time, follows from the times that each takes alone.
app: requests through a local Ray Serve app, once it runs, against the same parts called in this process one
    after another: text, engine, decoding, writing.

The last line is one JSON object. Ratios are of the median times of rounds, `_quartiles` of neighbouring
rounds' ratios, `_cpu` of this process's processor time, for machines with other work. app_overhead is the
app's time over the direct one, minus one.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from vitascope import config
from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import make_text_encoder
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise import sampler
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work
from vitascope.generate.denoise.saturation import measured, passes, saturation
from vitascope.generate.request import Request
from vitascope.model.formats.card import ModelCard, save_model
from vitascope.model.networks import cost_of
from vitascope.model.settings import ModelSettings

SIZES = ((1, 64, 64), (5, 32, 32), (5, 32, 64), (9, 32, 32), (9, 32, 64), (9, 64, 64))
"""Frames, height and width of the small requests: 8 to 48 patches."""
MODES = ("text_to_video", "image_to_video", "extend_forward", "extend_backward")
N_REQUESTS = 64
TEXT_TOKENS = 6
PARTS = ("below", "above", "poisson", "app")


def make_card(depth: int, width: int) -> ModelCard:
    """The card of a small DiT for latents of the DCT codec."""
    encode = EncodeSettings(dct_channels=12)
    return ModelCard(
        model=ModelSettings(depth=depth, width=width, heads=max(1, width // 64), patch=2),
        encode=encode,
        channels=make_codec(encode).channels,
        text_dim=make_text_encoder(encode).dim,
        fingerprint="bench",
        timestep_shift=1.0,
        step=1,
    )


def make_network(card: ModelCard) -> torch.nn.Module:
    """A network whose output layers are not zero, as those of a new one would be."""
    torch.manual_seed(0)
    network = card.build().eval()
    for weights in network.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.02)
    return network


@dataclass
class Passes:
    """A model that notes its passes: when each began, its cost, and who took part for the first time."""

    experts: Experts
    log: list[tuple[float, float]] = field(default_factory=list)
    first_s: dict[int, float] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.experts, name)

    def velocities(self, works: Sequence[Work]) -> list[list[Tensor]]:
        """As the model; a work is known by its prompt, which no step replaces."""
        now = time.perf_counter()
        for work in works:
            self.first_s.setdefault(id(work.text), now)
        self.log.append((now, sum(w.n_tokens * self.experts.weight(prod(w.grid)) for w in works)))
        return self.experts.velocities(works)


@dataclass(frozen=True)
class Bench:
    """The model, its saturation point and its card."""

    card: ModelCard
    experts: Experts
    budget: float

    def work(self, size: tuple[int, int, int], *, steps: int, guidance: float = 1.0, at: int = 0) -> Work:
        """A request before its first step; `at` chooses its mode, its noise and its prompt."""
        n_frames, height, width = size
        document = {"custom_id": str(at), "prompt": "a", "seed": at, "steps": steps, "guidance": guidance}
        frames = {"height": height, "width": width, "seconds": n_frames / 8, "fps": 8}
        request = Request.model_validate(document | frames)
        shape = self.card.patching.latent_shape(self.card.patching.covering(request.size))
        generator = torch.Generator().manual_seed(at)
        canvas = torch.randn(*shape, self.card.channels, generator=generator)
        states = torch.randn(TEXT_TOKENS, self.card.text_dim, generator=generator)
        given = _given(MODES[at % len(MODES)], shape[0])
        negative = torch.zeros(0, self.card.text_dim)
        return sampler.begin(request, Canvas(canvas, given), (states, negative), card=self.card)


def _given(mode: str, n: int) -> Tensor:
    """The mask of the conditioning latent frames; an image has none."""
    frame = torch.arange(n)
    masks = {
        "text_to_video": frame < 0,
        "image_to_video": frame < min(1, n - 1),
        "extend_forward": frame < n // 2,
        "extend_backward": frame >= n - n // 2,
    }
    return masks[mode]


@torch.inference_mode()
def advanced(model: Any, works: Sequence[Work]) -> list[Work]:
    """Works of the same number of steps with all their steps done, in passes of all of them."""
    while works[0].load.n_passes:
        velocities = model.velocities(works)
        works = [sampler.advance(work, parts) for work, parts in zip(works, velocities, strict=True)]
    return list(works)


def one_at_a_time(model: Any, works: Sequence[Work], _: float) -> list[Work]:
    """Each request alone."""
    return [advanced(model, [work])[0] for work in works]


def in_batches(model: Any, works: Sequence[Work], budget: float) -> list[Work]:
    """Batches of requests of the same size, steps and guidance, as large as the budget allows."""
    groups: dict[Any, list[Work]] = defaultdict(list)
    for work in works:
        groups[work.grid, len(work.schedule.experts), work.guidance].append(work)
    done: list[Work] = []
    for group in groups.values():
        most = max(1, int(budget / (group[0].n_tokens * model.weight(prod(group[0].grid)))))
        for start in range(0, len(group), most):
            done += advanced(model, group[start : start + most])
    return done


def in_engine(model: Any, works: Sequence[Work], budget: float) -> list[Work]:
    """All at once in our engine."""
    denoiser = Denoiser(model, token_budget=budget, max_tokens=10**6)
    try:
        return [future.result() for future in [denoiser.submit(work) for work in works]]
    finally:
        denoiser.close()


WAYS: dict[str, Callable[[Any, Sequence[Work], float], list[Work]]] = {
    "ours": in_engine,
    "one_at_a_time": one_at_a_time,
    "static_batches": in_batches,
}


def compared(bench: Bench, works: Sequence[Work], ways: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds, processor seconds and passes of each way, which take turns; a first round warms up."""
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    logs: dict[str, Passes] = {}
    done: dict[str, list[Work]] = {}
    for turn in range(rounds + 1):
        for way in [*ways[turn % len(ways) :], *ways[: turn % len(ways)]]:
            logs[way] = Passes(bench.experts)
            wall, cpu = time.perf_counter(), time.process_time()
            done[way] = WAYS[way](logs[way], works, bench.budget)
            if turn:
                times[way].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {"times": times, "logs": logs, "done": done}


def ratio(times: dict[str, list[tuple[float, float]]], other: str, name: str) -> dict[str, Any]:
    """How many times as fast as `other` we are."""
    wall, cpu = (
        statistics.median(t[i] for t in times[other]) / statistics.median(t[i] for t in times["ours"])
        for i in (0, 1)
    )
    each = sorted(b[0] / a[0] for a, b in zip(times["ours"], times[other], strict=True))
    quartiles = [each[len(each) // 4], each[-1 - len(each) // 4]]
    return {
        name: round(wall, 3),
        f"{name}_cpu": round(cpu, 3),
        f"{name}_quartiles": [round(q, 3) for q in quartiles],
    }


def below(bench: Bench, rounds: int, steps: Sequence[int], plot: str | None) -> dict[str, Any]:
    """Small requests, in three ways."""
    works = [
        bench.work(SIZES[i % 6], steps=steps[i // 6 % 3], guidance=1.0 + 3 * (i % 2), at=i // 2)
        for i in range(N_REQUESTS)
    ]
    found = compared(bench, works, list(WAYS), rounds)
    pairs = zip(found["done"]["ours"], found["done"]["one_at_a_time"], strict=True)
    largest = max(float((a.tokens - b.tokens).abs().max()) for a, b in pairs)
    if plot:
        draw(found["logs"], bench.budget, plot)
    occupancies = {
        way: round(statistics.mean(cost for _, cost in log.log) / bench.budget, 3)
        for way, log in found["logs"].items()
    }
    return {
        **ratio(found["times"], "one_at_a_time", "ratio_to_one_at_a_time"),
        **ratio(found["times"], "static_batches", "ratio_to_static_batches"),
        "requests_per_s": round(N_REQUESTS / statistics.median(t for t, _ in found["times"]["ours"]), 2),
        "passes": {way: len(log.log) for way, log in found["logs"].items()},
        "occupancy": occupancies,
        "equal": largest <= 1e-5,
        "largest_difference": largest,
    }


def above(bench: Bench, rounds: int) -> dict[str, Any]:
    """Requests that saturate the machine alone."""
    works = [bench.work(large(bench, 1.2 + 0.4 * (i % 3)), steps=3, at=i) for i in range(6)]
    times = compared(bench, works, ["ours", "one_at_a_time"], rounds)["times"]
    return ratio(times, "one_at_a_time", "ratio_above_saturation")


def large(bench: Bench, over: float) -> tuple[int, int, int]:
    """The smallest square video of 9 frames whose pass costs `over` times the budget."""
    side = 16
    while 3 * (side // 16) ** 2 * bench.experts.weight(3 * (side // 16) ** 2) < over * bench.budget:
        side += 16
    return 9, side, side


def draw(logs: dict[str, Passes], budget: float, path: str) -> None:
    """The cost of every pass over that of a saturating one, by time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(logs), 1, sharex=True, figsize=(9, 6), layout="constrained")
    for axis, (way, passed) in zip(axes, logs.items(), strict=True):
        began = passed.log[0][0]
        axis.step(
            [at - began for at, _ in passed.log], [cost / budget for _, cost in passed.log], where="post"
        )
        axis.set(title=f"{way}: {len(passed.log)} passes", ylabel="occupancy", ylim=(0, 1.3))
        axis.axhline(1, linewidth=0.5, color="grey")
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=100)
    plt.close(figure)


@dataclass(frozen=True)
class Arrival:
    """A request of the stream: when it comes, from the beginning, and which of the two sizes it has."""

    at_s: float
    small: bool
    work: Work


def poisson(bench: Bench, n_small: int) -> dict[str, Any]:
    """Small requests with and without large ones, which take a pass of twice the budget."""
    smallest = min(SIZES, key=prod)
    shapes = {True: (smallest, 6), False: (large(bench, 2.0), 6)}
    alone_s = {}
    for small, (size, steps) in shapes.items():
        each = [
            _seconds(lambda s=size, n=steps: advanced(bench.experts, [bench.work(s, steps=n)]))
            for _ in "12345"
        ]
        alone_s[small] = statistics.median(each)
    rng, arrivals = random.Random(0), []
    for small, load in ((True, 0.3), (False, 0.4)):
        now, size, steps = 0.0, *shapes[small]
        end = n_small * alone_s[True] / 0.3
        while (now := now + rng.expovariate(load / alone_s[small])) < end:
            arrivals.append(Arrival(now, small, bench.work(size, steps=steps, at=len(arrivals))))
    arrivals.sort(key=lambda arrival: arrival.at_s)
    only = [arrival for arrival in arrivals if arrival.small]
    runs = [(streamed(bench, only), streamed(bench, arrivals)) for _ in range(2)]
    quiet, mixed = (_joined([run[i] for run in runs]) for i in (0, 1))
    fifo = [_p95(first_in_first_out(stream, alone_s)) for stream in (only, arrivals)]
    return {
        "p95_small_over_alone": round(_p95(mixed[1]) / _p95(quiet[1]), 2),
        "p95_small_over_alone_fifo": round(fifo[1] / fifo[0], 2),
        "small_alone_ms": round(1000 * alone_s[True], 1),
        "large_alone_ms": round(1000 * alone_s[False], 1),
        "small_p95_ms": [round(1000 * _p95(part[1]), 1) for part in (quiet, mixed)],
        "small_wait_for_first_step_p95_ms": [round(1000 * _p95(part[0]), 1) for part in (quiet, mixed)],
        "large_p95_ms": round(1000 * _p95(mixed[2]), 1),
    }


def streamed(bench: Bench, arrivals: Sequence[Arrival]) -> tuple[list[float], list[float], list[float]]:
    """Small ones' seconds to the first step and to the end, and large ones' to the end."""
    model = Passes(bench.experts)
    denoiser = Denoiser(model, token_budget=bench.budget, max_tokens=10**6)  # type: ignore[arg-type]
    ended: dict[int, float] = {}
    began, futures = time.perf_counter(), list[Future[Work]]()
    for i, arrival in enumerate(arrivals):
        time.sleep(max(0.0, began + arrival.at_s - time.perf_counter()))
        futures.append(denoiser.submit(arrival.work))
        futures[-1].add_done_callback(lambda _, i=i: ended.__setitem__(i, time.perf_counter()))
    for future in futures:
        future.result()
    denoiser.close()
    firsts = [model.first_s[id(a.work.text)] - began - a.at_s for a in arrivals if a.small]
    whole = {
        small: [ended[i] - began - a.at_s for i, a in enumerate(arrivals) if a.small is small]
        for small in (True, False)
    }
    return firsts, whole[True], whole[False]


def _joined(runs: Sequence[tuple[list[float], ...]]) -> list[list[float]]:
    return [[value for part in parts for value in part] for parts in zip(*runs, strict=True)]


def first_in_first_out(arrivals: Sequence[Arrival], alone_s: dict[bool, float]) -> list[float]:
    """Small ones' seconds to the end if each request has the machine until it ends."""
    now, seconds = 0.0, []
    for arrival in arrivals:
        now = max(now, arrival.at_s) + alone_s[arrival.small]
        if arrival.small:
            seconds.append(now - arrival.at_s)
    return seconds


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))] if values else float("nan")


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def app(bench: Bench, rounds: int, threads: int) -> dict[str, Any]:
    """The same requests through Serve, and directly."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(f"{folder}/model", bench.experts.networks[0].state_dict(), bench.card)
        overrides = [
            f"run.folder={folder}",
            f"generate.model={folder}/model",
            f"generate.token_budget={bench.budget:.0f}",
        ]
        settings = config.load(None, [*overrides, f"generate.denoise_cpus={threads}", "cluster.local_cpus=6"])
        return _through_serve(settings, folder, rounds)


def _through_serve(settings: Any, folder: str, rounds: int) -> dict[str, Any]:
    from ray.serve.schema import TracingConfig

    from vitascope.cluster.local import connect
    from vitascope.generate.app.build import build
    from vitascope.generate.app.serving import serving
    from vitascope.generate.models import DEFAULT, open_models

    model = open_models(settings)
    parts = Direct(model.each[DEFAULT].opened, settings)
    times: dict[str, list[float]] = defaultdict(list)
    connect(settings.cluster)
    with serving(build(model, settings), "bench", "bench-app", TracingConfig()) as handle:
        for turn in range(rounds + 1):
            requests = [_app_request(f"{turn}-{i}") for i in range(8)]
            ways: list[tuple[str, Callable[[], object]]] = [
                ("app", partial(_through, handle, requests, model, f"{folder}/app")),
                ("direct", partial(parts, requests, f"{folder}/direct")),
            ]
            for name, run in ways[:: 1 if turn % 2 else -1]:
                seconds = _seconds(run)
                if turn:
                    times[name].append(seconds)
    app_s, direct_s = (statistics.median(times[name]) for name in ("app", "direct"))
    each = sorted(a / b - 1 for a, b in zip(times["app"], times["direct"], strict=True))
    return {
        "app_overhead": round(app_s / direct_s - 1, 4),
        "app_overhead_range": [round(each[0], 3), round(each[-1], 3)],
        "app_s": round(app_s, 3),
        "direct_s": round(direct_s, 3),
    }


def _app_request(name: str) -> Request:
    document = {"custom_id": name, "prompt": "a boat", "seed": 1, "steps": 30, "guidance": 4.0}
    return Request.model_validate(document | {"height": 96, "width": 96, "seconds": 9 / 8, "fps": 8})


def _through(handle: Any, requests: Sequence[Request], model: Any, folder: str) -> None:
    """Sends all at once, and waits for their sidecars."""
    responses = [handle.remote(request, model.target(folder, request)) for request in requests]
    sidecars = [response.result() for response in responses]
    assert all(isinstance(sidecar, dict) for sidecar in sidecars), sidecars


class Direct:
    """The parts of the app without Ray, in this process, one after another."""

    def __init__(self, model: Any, settings: Any) -> None:
        from vitascope.generate.app.codec import DecodeWrite
        from vitascope.generate.app.text import TextEncode

        self._model, self._budget = model, settings.generate.token_budget
        self._text, self._codec = TextEncode(model.card.encode), DecodeWrite(model.card)
        self._experts = model.load("cpu")

    def __call__(self, requests: Sequence[Request], folder: str) -> None:
        """Generates the requests."""
        from vitascope.generate.app.shares import FREE
        from vitascope.generate.app.values import Denoised
        from vitascope.generate.conditions import blank
        from vitascope.generate.sidecar import Spent

        works, texts = [], []
        card = self._model.card
        for request in requests:
            text = self._text(request, ready=time.time(), takes=FREE)
            states = torch.tensor(text.prompt), torch.tensor(text.negative)
            start = blank(request, card.patching, card.channels)
            works.append(sampler.begin(request, start, states, card=card, sampling=self._model.sampling))
            texts.append(text.n_tokens)
        done = in_engine(self._experts, works, self._budget)
        for request, work, n_text in zip(requests, done, texts, strict=True):
            latent = work.latent(card.model.patch).numpy()
            denoised = Denoised(latent, n_text, {"denoise": Spent(0.0, 0.0)})
            asyncio.run(self._codec.write(request, denoised, None, self._model.target(folder, request)))


def main() -> None:
    """Measures, and prints every part's figures as JSON, and all of them on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--steps", type=int, nargs=3, default=[4, 6, 8])
    parser.add_argument("--arrivals", type=int, default=60, help="of small requests")
    parser.add_argument("--plot", help="PNG of the occupancy")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    card = make_card(given.depth, given.width)
    cost = cost_of(card.model, card.channels, card.text_dim)
    experts = Experts([make_network(card)], squared=cost.per_token_squared / cost.per_token)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    points = measured(passes(experts, card), 16_384, clock=clock)
    bench = Bench(card, experts, saturation(points).cost)
    result: dict[str, Any] = {
        "saturation": round(bench.budget),
        "passes_ms": [(round(c), round(1000 * s, 2)) for c, s in points],
    }
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "below": lambda: below(bench, given.rounds, given.steps, given.plot),
        "above": lambda: above(bench, given.rounds),
        "poisson": lambda: poisson(bench, given.arrivals),
        "app": lambda: app(bench, given.rounds, given.threads),
    }
    for name in given.parts:
        found = parts[name]()
        print(json.dumps(found), flush=True)
        result |= found
    print(json.dumps(result))


if __name__ == "__main__":
    main()
