"""What an output has otherwise than its request."""

from enum import StrEnum

from vitascope.encode.buckets import Patching
from vitascope.generate.request import Request


class Change(StrEnum):
    """A way in which a request was not followed to the letter."""

    FRAMES_ROUNDED = "frames_rounded"
    SIZE_CROPPED = "size_cropped"
    PROMPT_CUT = "prompt_cut"
    NEGATIVE_PROMPT_CUT = "negative_prompt_cut"


MEANING = {
    Change.FRAMES_ROUNDED: "seconds x fps was rounded to whole frames",
    Change.SIZE_CROPPED: "made in the next larger size that the model makes, and cropped",
    Change.PROMPT_CUT: "the text encoder read the beginning of the prompt only",
    Change.NEGATIVE_PROMPT_CUT: "the text encoder read the beginning of the negative prompt only",
}


def changes(
    request: Request, patching: Patching, n_text: tuple[int, int], most_text: int
) -> dict[Change, str]:
    """Every change and its particulars, for the sidecar.

    Args:
        n_text: tokens of prompt and negative prompt.
        most_text: tokens that the text encoder reads.
    """
    changes = {}
    size, made = request.size, patching.covering(request.size)
    exact = request.seconds * request.fps
    if request.seconds and abs(exact - size.n_frames) > 1e-3:
        asked = f"{request.seconds:g} s at {request.fps:g} fps are {exact:g} frames"
        changes[Change.FRAMES_ROUNDED] = f"{asked}, the output has {size.n_frames}"
    if made != size:
        changes[Change.SIZE_CROPPED] = f"made as {made} (frames x height x width), cropped to {size}"
    for change, n in zip((Change.PROMPT_CUT, Change.NEGATIVE_PROMPT_CUT), n_text, strict=True):
        if n > most_text:
            changes[change] = f"it has {n} tokens, of which the text encoder reads the first {most_text}"
    return changes
