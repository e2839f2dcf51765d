"""What is known of an output, in the JSON beside it."""

from importlib.metadata import version
from typing import Any

from vitascope.generate.request import Request
from vitascope.media.mp4 import encoder


def sidecar(request: Request, uri: str, model: dict[str, Any], timings: dict[str, float]) -> dict[str, Any]:
    """The document that stands beside an output.

    Args:
        uri: where the output is.
        model: what made it: folder, identity, step, fingerprint of its latents.
        timings: seconds by stage.
    """
    size = request.size
    return {
        "custom_id": request.custom_id,
        "kind": request.kind,
        "uri": uri,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "steps": request.steps,
        "guidance": request.guidance,
        "n_frames": size.n_frames,
        "height": size.height,
        "width": size.width,
        "fps": request.fps,
        "media": {field: getattr(request, field) for field in ("image", "video", "video_after")},
        "encoder": "png" if size.n_frames == 1 else encoder(),
        "model": model,
        "seconds": timings,
        "vitascope": version("vitascope"),
    }
