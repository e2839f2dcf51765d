"""A newer checkpoint takes over while requests run: none fails, and each says which model made it."""

import asyncio
import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ray import serve

from vitascope import config, storage
from vitascope.config import Settings
from vitascope.generate.app.build import build
from vitascope.generate.models import Newest, open_models
from vitascope.generate.parse import parse
from vitascope.model.formats.card import ModelCard, save_model

IN_FLIGHT, AFTER = 6, 8


class Load:
    """Requests as a service sends them, `IN_FLIGHT` at a time, until enough are made by the new model."""

    def __init__(self, handle: Any, settings: Settings) -> None:
        self._handle, self._outputs = handle, settings.path("outputs", "batch")
        self.newest = Newest(settings, lambda _: None)
        self.made: list[dict[str, Any]] = []
        self.ended_s: list[float] = []
        self._n_sent = 0

    async def run(self, publish: Any) -> None:
        publishing = asyncio.create_task(publish(self))
        await asyncio.gather(*(self._one_after_the_other() for _ in range(IN_FLIGHT)))
        await publishing

    def of_step(self, step: int) -> list[dict[str, Any]]:
        return [sidecar for sidecar in self.made if sidecar["model"]["step"] == step]

    async def _one_after_the_other(self) -> None:
        while len(self.of_step(8)) < AFTER:
            assert self._n_sent < 3000
            self._n_sent += 1
            fields = {"custom_id": str(self._n_sent), "prompt": "a cat", "width": 64, "height": 48}
            line = json.dumps(fields | {"seconds": 0, "steps": 10, "seed": 1})
            request = parse(line, self.newest.models.limits("/media"))
            answer = await self.newest.made(request, self._outputs, self._handle.remote)
            assert isinstance(answer, dict), answer
            self.made.append(answer)
            self.ended_s.append(time.monotonic())


def picture(sidecar: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(storage.read_bytes(sidecar["uri"])))).astype(int)


@pytest.mark.nightly
def test_no_request_fails_while_a_checkpoint_is_replaced(
    ray_cluster: None,  # noqa: ARG001
    model_folder: Path,
    card: ModelCard,
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    settings = config.load(
        None, [f"run.folder={tmp_path}", f"generate.model={folder}", "generate.follow_s=1"]
    )
    torch.manual_seed(3)
    weights = {name: torch.randn_like(w) * 0.1 for name, w in card.build().state_dict().items()}

    async def publish(load: Load) -> None:
        while len(load.made) < 20:
            await asyncio.sleep(0.1)
        await asyncio.to_thread(
            save_model, str(folder), weights, card.model_copy(update={"step": card.step + 1})
        )

    try:
        handle = serve.run(build(open_models(settings), settings), name="vitascope-swap", route_prefix=None)
        load = Load(handle, settings)
        asyncio.run(load.run(publish))
    finally:
        serve.delete("vitascope-swap")
    old, new = load.of_step(7), load.of_step(8)
    assert len(old) + len(new) == len(load.made)
    assert len(old) >= 20
    assert len(new) >= AFTER
    first_old, *others_old = (picture(sidecar) for sidecar in old)
    first_new, *others_new = (picture(sidecar) for sidecar in new)
    # The last bits depend on a request's company; a level of 256 is one of them rounded.
    assert all(abs(other - first_old).max() <= 1 for other in others_old), "made by the model that it names"
    assert all(abs(other - first_new).max() <= 1 for other in others_new), "made by the model that it names"
    assert abs(first_new - first_old).max() > 10
    pauses = [after - before for before, after in zip(load.ended_s, load.ended_s[1:], strict=False)]
    print(f"\n{len(old)} old, {len(new)} new, none failed; longest pause {max(pauses[10:]):.2f} s")
