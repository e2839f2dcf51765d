"""Measures what signing costs of the end-to-end time of a request, in one process without Ray.

    python jobs/bench/provenance.py [--rounds 3] [--steps 30]

Per size, a request is denoised by a model of random weights, decoded, encoded, signed and committed, as the
app's replicas do it. The model is small (6 blocks of 256 channels), so signing counts for more than with any
model in use. A request with an input is an extension of the output before it, whose manifest it carries.

    sign_s      median time of the signature
    request_s   median time of the whole request, signature included
    fraction    median of sign_s / request_s over the rounds

The last line is one JSON object; `fraction` is the largest of the sizes.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from typing import Any

import torch
from generate_model import make_card

from vitascope.generate.app.codec import DecodeWrite
from vitascope.generate.app.values import Denoised
from vitascope.generate.conditions import Canvas, blank
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import begin
from vitascope.generate.opened import Maker, Target
from vitascope.generate.request import Request
from vitascope.generate.sidecar import Spent

SIZES = ((64, 96, 0.0), (96, 160, 2.0))
"""Height, width and seconds at 8 fps."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    torch.manual_seed(0)
    card = make_card(6, 256)
    codec, signing = DecodeWrite(card), list[float]()
    sign = codec._signer.write

    def timed(*what: Any) -> Any:
        started = time.perf_counter()
        try:
            return sign(*what)
        finally:
            signing.append(time.perf_counter() - started)

    codec._signer.write = timed  # type: ignore[method-assign]
    denoiser = Denoiser(Experts([card.build().eval()]), token_budget=16_384)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for height, width, seconds in SIZES:
            for mode in ("text_to_video", "extend_forward")[: 1 + bool(seconds)]:
                times = [
                    (
                        one_request(
                            folder, (card, codec, denoiser), options.steps, (height, width, seconds, mode, i)
                        )
                    )
                    for i in range(-1, options.rounds)
                ][1:]
                signed = signing[-options.rounds :]
                figures.append(
                    {
                        "size": f"{width}x{height}, {seconds:g} s",
                        "mode": mode,
                        "sign_s": round(statistics.median(signed), 5),
                        "request_s": round(statistics.median(times), 4),
                        "fraction": round(statistics.median(map(float.__truediv__, signed, times)), 5),
                    }
                )
                print(figures[-1], flush=True)
    denoiser.close()
    print(json.dumps({"fraction": max(one["fraction"] for one in figures), "sizes": figures}))


def one_request(folder: str, parts: Any, steps: int, what: Any) -> float:
    """The time of one request from noise to the committed file."""
    (card, codec, denoiser), (height, width, seconds, mode, i) = parts, what
    name = f"{folder}/{height}-{mode}-{i}"
    earlier = f"{folder}/{height}-text_to_video-{i}.mp4" if mode != "text_to_video" else None
    fields = {"custom_id": name, "prompt": "a cat", "height": height, "width": width, "seconds": seconds}
    request = Request(**fields, mode=mode, video=earlier, seed=i + 1, steps=steps, guidance=1.0)
    started = time.perf_counter()
    given = asyncio.run(codec.canvas(request)) if earlier else None
    start = blank(request, card.patching, card.channels)
    if given:
        start = Canvas(torch.tensor(given.latent), torch.tensor(given.given))
    states = torch.zeros(3, card.text_dim), torch.zeros(0, card.text_dim)
    done = denoiser.submit(begin(request, start, states, card=card, device="cpu")).result()
    latent = done.latent(card.model.patch).cpu().numpy()
    target = Target(name, Maker("/model", "0" * 16, 0, "latents"))
    denoised = Denoised(latent, (3, 0), {"denoise": Spent(0.0, 0.0)})
    asyncio.run(codec.write(request, denoised, given, target))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
