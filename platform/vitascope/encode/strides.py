"""A codec's strides, without loading the codec."""

from collections.abc import Callable
from typing import Any

from vitascope.encode import autoencoders
from vitascope.encode.settings import STRIDES, EncodeSettings, Strides, check_buckets, check_frame_counts
from vitascope.errors import Mistake

_Check = Callable[[Any, int], None]
_CHECKS: dict[str, _Check] = {"frame_counts": check_frame_counts, "buckets": check_buckets}


def strides_of(settings: EncodeSettings) -> Strides:
    """The strides of the codec that the settings name; raises as `autoencoders.read` does."""
    if settings.codec_folder is None:
        return STRIDES[settings.codec]
    return autoencoders.read(settings.codec_folder).latents.strides


def check_lengths(settings: EncodeSettings) -> None:
    """Raises Mistake unless all frame counts and buckets are whole latent frames that the codec can code."""
    stride = strides_of(settings).time
    for key, check in _CHECKS.items():
        try:
            check(getattr(settings, key) or (), stride)
        except ValueError as error:
            raise Mistake(f"encode.{key}: {error}; {settings.codec_folder} sets the stride") from None
    if settings.codec_folder:
        sizes = [(n, h * w) for n, h, w in settings.buckets or ()]
        sizes = sizes or [(n, settings.max_pixels) for n in settings.frame_counts]
        for n_frames, area in sizes:
            area_at_once = min(area, settings.tile_pixels or area)
            autoencoders.read(settings.codec_folder).check_at_once(n_frames, area_at_once)
