"""The name under which latents are kept."""

from vitascope import storage
from vitascope.config import Settings
from vitascope.encode.buckets import MAX_UPSCALE
from vitascope.encode.codecs import make_codec
from vitascope.encode.strides import strides_of
from vitascope.encode.text import make_text_encoder
from vitascope.media.geometry import CROP_RULE
from vitascope.records import stable_id


def fingerprint(settings: Settings) -> str:
    """16 characters that change with everything that shapes a latent, and with nothing else.

    That is: the codec with its constants or weights, the text encoder and its weights, the bucket table, the
    multiple that its sides snap to, the crop rule and the rate at which frames are picked.
    """
    encode = settings.encode
    near_native = (encode.max_pixels, encode.frame_counts)
    table = (sorted(encode.buckets), encode.max_crop, MAX_UPSCALE) if encode.buckets else near_native
    return stable_id(
        make_codec(encode).fingerprint,
        make_text_encoder(encode).fingerprint,
        *table,
        strides_of(encode).space * settings.model.patch,
        CROP_RULE,
        settings.clips.fps,
    )


def latents_folder(settings: Settings) -> str:
    """Where the run's latents are, or will be."""
    return storage.join(settings.feed.latents or settings.path("latents"), fingerprint(settings))
