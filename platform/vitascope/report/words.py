"""What captions say: lengths, terms, languages."""

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SAMPLE = 20_000  # captions whose terms and languages are counted; languages take 2 s of them
_UNSURE = 0.1  # a detector's confidence; a sentence of 6 words has some 0.5
_SHORT, _UNSURE_OF_SHORT = 16, 0.4  # bytes; "colour bars" is Breton at 0.15, "un chat noir" Irish at 0.29
_WORD = re.compile(r"[^\W\d_][\w'’-]+")
_EMPTY = re.compile(  # they say nothing of what is seen
    "a|an|the|and|or|but|of|in|on|at|by|to|for|from|with|without|into|onto|over|under|as|is|are|was|were|be|been|"
    "being|it|its|it's|this|that|these|those|there|their|they|them|he|she|his|her|him|who|which|while|where|when|"
    "has|have|had|not|no|one|two|some|other|another|up|down|out|off|then|than|so|very|also|can|across|against|"
    "along|around|between|through|near|each|both|all|more|most|several"
)


def lengths(captions: pa.ChunkedArray) -> np.ndarray:
    """Words of each caption (N,), NaN without a caption: runs of what is not white space."""
    return np.asarray(pc.cast(pc.count_substring_regex(captions, r"\S+"), pa.float64()).to_numpy())


def sample(captions: pa.ChunkedArray) -> list[str]:
    """At most SAMPLE of the captions, at even distances."""
    known = captions.drop_null()
    places = np.unique(np.linspace(0, max(0, len(known) - 1), min(SAMPLE, len(known))).astype(np.int64))
    return known.take(pa.array(places)).to_pylist()


def terms(captions: Iterable[str], most: int = 30) -> dict[str, int]:
    """The words that most captions have, and how many have each; those of grammar left out."""
    found: Counter[str] = Counter()
    for caption in captions:
        words = [word.casefold() for word in _WORD.findall(caption)]
        found.update(sorted({word for word in words if not _EMPTY.fullmatch(word)}))
    return dict(found.most_common(most))


def languages(captions: Iterable[str]) -> dict[str, int] | None:
    """How many captions are in which language (ISO 639-1 codes), or `unclear`; None without the detector."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return None
    detector = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found: Counter[str] = Counter()
    for caption in captions:
        code, sure = detector.classify(caption)
        needed = _UNSURE_OF_SHORT if len(caption.encode()) < _SHORT else _UNSURE
        found[code if sure >= needed else "unclear"] += 1
    return dict(found.most_common())


def repeated(captions: pa.ChunkedArray, sources: pa.ChunkedArray, most: int = 8) -> dict[str, int]:
    """The captions that most sources share, two or more, and how many do."""
    table = pa.table({"caption": captions, "source": sources}).drop_null()
    counts = table.group_by("caption").aggregate([("source", "count_distinct")])
    counts = counts.filter(pc.field("source_count_distinct") > 1).sort_by(
        [("source_count_distinct", "descending")]
    )
    top = counts.slice(0, most)
    return dict(zip(top["caption"].to_pylist(), top["source_count_distinct"].to_pylist(), strict=True))
