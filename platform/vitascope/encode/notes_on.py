"""Notes about clips and captions that were cut."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import TextEncoder
from vitascope.wording import count

_CHECKED = 2_000  # captions at the limit whose full length is counted, 10,000 a second


def shortened(samples: pa.Table, clips: pa.Table) -> list[str]:
    """Clips whose longest sample has fewer frames than they have.

    Args:
        samples: records.SAMPLES.
        clips: clip_id, n_frames and fps of table.CLIPS.
    """
    at = pc.index_in(samples["clip_id"], value_set=clips["clip_id"])
    known = np.asarray(pc.is_valid(at))
    rows = pc.drop_null(at).to_numpy()
    longest = np.zeros(len(clips), np.int64)
    np.maximum.at(longest, rows, samples["n_frames"].to_numpy()[known])
    used = np.flatnonzero(longest)
    n_frames, fps = (clips[name].to_numpy()[used] for name in ("n_frames", "fps"))
    lost_s = np.maximum(n_frames - longest[used], 0) / fps
    n, whole_s = int((lost_s > 0).sum()), float((n_frames / fps).sum())
    if not n:
        return []
    lost = float(lost_s.sum())
    return [
        f"{n:,} of {count(len(used), 'clip')} shortened to their bucket's frames (encode.frame_counts, "
        f"encode.buckets): {lost:,.1f} s of {whole_s:,.1f} s are not encoded ({lost / whole_s:.1%})"
    ]


def captions_cut(samples: pa.Table, settings: EncodeSettings, encoder: TextEncoder) -> list[str]:
    """Captions of which the text encoder reads only the beginning."""
    at_limit = samples.filter(pc.greater_equal(samples["n_text"], settings.max_text_tokens))
    captions = pc.unique(at_limit["caption"]).to_pylist()
    lengths = encoder.count(captions[:_CHECKED])
    n_cut = sum(n > settings.max_text_tokens for n in lengths)
    if not n_cut:
        return []
    about = "" if len(captions) <= _CHECKED else "about "
    n_all = round(n_cut / len(lengths) * len(captions))
    return [
        f"{about}{count(n_all, 'different caption')} cut at encode.max_text_tokens = "
        f"{settings.max_text_tokens}; the longest has {max(lengths):,} tokens"
    ]
