"""What the app adds to its parts, and what it gains by running them at once."""

import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from generate_model import Bench, seconds

from vitascope import config
from vitascope.generate.conditions import blank
from vitascope.generate.denoise import sampler
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.request import Request
from vitascope.generate.sidecar import Spent
from vitascope.model.formats.card import save_model

TOGETHER = 8


def app(bench: Bench, rounds: int) -> dict[str, Any]:
    """The same requests through Serve, and directly, with one thread of computation each.

    With more, the parts that share a process would have a pool of threads each, and slow each other down.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save_model(f"{folder}/model", bench.experts.networks[0].state_dict(), bench.card)
        overrides = [
            f"run.folder={folder}",
            f"generate.model={folder}/model",
            f"generate.token_budget={bench.budget:.0f}",
        ]
        settings = config.load(None, [*overrides, "generate.denoise_cpus=1", "cluster.local_cpus=6"])
        return _through_serve(settings, folder, rounds)


def _through_serve(settings: Any, folder: str, rounds: int) -> dict[str, Any]:
    from ray.serve.schema import TracingConfig

    from vitascope.cluster.local import connect
    from vitascope.generate.app.build import build
    from vitascope.generate.app.serving import serving
    from vitascope.generate.models import DEFAULT, open_models

    models = open_models(settings)
    parts = Direct(models.each[DEFAULT].opened, settings)
    times: dict[str, list[float]] = defaultdict(list)
    connect(settings.cluster)
    with serving(build(models, settings), "bench", "bench-app", TracingConfig()) as handle:
        for turn in range(rounds + 1):
            ways: list[tuple[str, Callable[[], object]]] = [
                ("app", partial(_through, handle, _requests(f"{turn}a", 1), models, f"{folder}/app")),
                ("direct", partial(parts, _requests(f"{turn}a", 1), f"{folder}/direct")),
                ("app", partial(_through, handle, _requests(f"{turn}b", 1), models, f"{folder}/app")),
                ("direct", partial(parts, _requests(f"{turn}b", 1), f"{folder}/direct")),
                (
                    "app_together",
                    partial(_through, handle, _requests(f"{turn}-", TOGETHER), models, f"{folder}/app"),
                ),
                ("direct_together", partial(parts, _requests(f"{turn}-", TOGETHER), f"{folder}/direct")),
            ]
            for name, run in ways[:: 1 if turn % 2 else -1]:
                taken_s = seconds(run)
                if turn:
                    times[name].append(taken_s)
    median_s = {name: statistics.median(of) for name, of in times.items()}
    each = sorted(a / b - 1 for a, b in zip(times["app"], times["direct"], strict=True))
    return {
        "app_overhead": round(statistics.median(each), 4),
        "app_overhead_quartiles": [round(each[len(each) // 4], 4), round(each[-1 - len(each) // 4], 4)],
        "app_overhead_ms": round(1000 * (median_s["app"] - median_s["direct"]), 1),
        "app_together_over_parts": round(median_s["app_together"] / median_s["direct_together"], 3),
        "app_s": {name: round(s, 3) for name, s in median_s.items()},
    }


def _requests(name: str, n: int) -> list[Request]:
    document = {"prompt": "a boat", "seed": 1, "steps": 40, "guidance": 4.0}
    size = {"height": 96, "width": 96, "seconds": 9 / 8, "fps": 8}
    return [Request.model_validate(document | size | {"custom_id": f"{name}{i}"}) for i in range(n)]


def _through(handle: Any, requests: Sequence[Request], models: Any, folder: str) -> None:
    """Sends all at once, and waits for their sidecars."""
    responses = [handle.remote(request, models.target(folder, request)) for request in requests]
    sidecars = [response.result() for response in responses]
    assert all(isinstance(sidecar, dict) for sidecar in sidecars), sidecars


class Direct:
    """The parts of the app without Ray, in this process, one after another."""

    def __init__(self, model: Any, settings: Any) -> None:
        from vitascope.generate.app.codec import DecodeWrite, Publishing
        from vitascope.generate.app.text import TextEncode

        self._model = model
        publishing = Publishing(settings.provenance, settings.prompts.frames)
        self._text = TextEncode(model.card.encode)
        self._codec = DecodeWrite(model.card, publishing=publishing)
        self._denoiser = Denoiser(
            model.load("cpu"), token_budget=settings.generate.token_budget, max_tokens=10**6
        )

    def __call__(self, requests: Sequence[Request], folder: str) -> None:
        """Generates the requests."""
        from vitascope.generate.app.shares import FREE
        from vitascope.generate.app.values import Denoised
        from vitascope.generate.opened import Target

        futures, texts = [], []
        card = self._model.card
        for request in requests:
            text = self._text(request, ready=time.time(), takes=FREE)
            states = torch.tensor(text.prompt), torch.tensor(text.negative)
            start = blank(request, card.patching, card.channels)
            work = sampler.begin(request, start, states, card=card, sampling=self._model.sampling)
            futures.append(self._denoiser.submit(work))
            texts.append(text.n_tokens)
        done = [future.result() for future in futures]
        for request, work, n_text in zip(requests, done, texts, strict=True):
            denoised = Denoised(work.latent(card.model.patch).numpy(), n_text, {"denoise": Spent(0.0, 0.0)})
            target = Target(f"{folder}/{request.custom_id}", self._model.maker)
            asyncio.run(self._codec.write(request, denoised, None, target))
