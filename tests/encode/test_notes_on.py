"""The encode stage reports what it cut by itself."""

import pyarrow as pa
import torch

from vitascope.encode import notes_on
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import make_text_encoder

CLIPS = pa.table({"clip_id": ["a", "b", "c"], "n_frames": [20, 17, 99], "fps": [8.0, 8.0, 8.0]})


def test_clips_that_lose_frames_to_their_bucket_are_counted_by_their_longest_sample() -> None:
    samples = pa.table({"clip_id": ["a", "a", "b", "gone"], "n_frames": [9, 17, 17, 9]})
    (note,) = notes_on.shortened(samples, CLIPS)
    assert note.startswith("1 of 2 clips shortened")
    assert note.endswith("0.4 s of 4.6 s are not encoded (8.1%)")
    assert notes_on.shortened(samples.slice(2), CLIPS) == []
    assert notes_on.shortened(samples.slice(0, 0), CLIPS) == []


def test_captions_beyond_the_limit_are_told_and_those_just_at_it_not() -> None:
    settings = EncodeSettings(max_text_tokens=8)
    encoder = make_text_encoder(settings, torch.device("cpu"))
    fits, long = "a cat on the red sofa", "a cat on the red sofa " * 100
    assert encoder.count([fits, "", long]) == [8, 0, 602]
    samples = pa.table({"caption": [fits, long, long], "n_text": [8, 8, 8]})
    (note,) = notes_on.captions_cut(samples, settings, encoder)
    assert note == "1 different caption cut at encode.max_text_tokens = 8; the longest has 602 tokens"
    assert notes_on.captions_cut(samples.slice(0, 1), settings, encoder) == []
