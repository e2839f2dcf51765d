"""What an output has otherwise than its request."""

from dataclasses import replace
from enum import StrEnum

from vitascope.encode.buckets import Patching
from vitascope.generate.layout import Layout, between, layout, n_asked, n_between
from vitascope.generate.request import Mode, Request


class Change(StrEnum):
    """A way in which a request was not followed to the letter."""

    FRAMES_ROUNDED = "frames_rounded"
    SIZE_CROPPED = "size_cropped"
    PICTURE_HELD = "picture_held"
    KEPT_CUT = "kept_cut"
    MOMENTS_MOVED = "moments_moved"
    PROMPT_CUT = "prompt_cut"
    NEGATIVE_PROMPT_CUT = "negative_prompt_cut"


MEANING = {
    Change.FRAMES_ROUNDED: "seconds x fps was rounded to whole frames",
    Change.SIZE_CROPPED: "made in the next larger size that the model makes, and cropped",
    Change.PICTURE_HELD: "a picture stands for several frames: the model makes so many together",
    Change.KEPT_CUT: "frames at the ends of a stretch were made anew: the model makes several together",
    Change.MOMENTS_MOVED: "frames in between are of the nearest moments that the model makes",
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
    changes = _of_media(request, layout(request, patching))
    size, made = request.size, patching.covering(request.size)
    exact = request.seconds * request.fps
    if request.seconds and abs(exact - size.n_frames) > 1e-3:
        asked = f"{request.seconds:g} s at {request.fps:g} fps are {exact:g} frames"
        changes[Change.FRAMES_ROUNDED] = f"{asked}, the output has {size.n_frames}"
    if request.mode in (Mode.LOOP, Mode.INTERPOLATE):  # which frames are shown follows from the mode
        made = replace(made, n_frames=size.n_frames)
    if made != size:
        changes[Change.SIZE_CROPPED] = f"made as {made} (frames x height x width), cropped to {size}"
    for change, n in zip((Change.PROMPT_CUT, Change.NEGATIVE_PROMPT_CUT), n_text, strict=True):
        if n > most_text:
            changes[change] = f"it has {n} tokens, of which the text encoder reads the first {most_text}"
    return changes


def _of_media(request: Request, place: Layout) -> dict[Change, str]:
    changes = {}
    counts = [int((place.in_output == number).sum()) for number in range(len(place.pieces))]
    held = [
        f"{piece.media} is shown for {n} frames"
        for piece, n in zip(place.pieces, counts, strict=True)
        if n > piece.n_frames
    ]
    if held:
        changes[Change.PICTURE_HELD] = "; ".join(held)
    asked = [n_asked(keep, request) for keep in request.keep]
    cut = [
        f"of {n} frames of keep[{i}], {n_kept} are kept"
        for i, (n, n_kept) in enumerate(zip(asked, counts, strict=False))
        if n_kept < n
    ]
    if cut:
        changes[Change.KEPT_CUT] = "; ".join(cut)
    if request.factor:
        n = n_between(request.factor, place.time_stride) + 1
        fractions = [position / n for position in between(request.factor, place.time_stride)]
        if any(abs(f - (i + 1) / request.factor) > 1e-6 for i, f in enumerate(fractions)):
            shown = ", ".join(f"{fraction:.2f}" for fraction in fractions)
            changes[Change.MOMENTS_MOVED] = f"between two frames of the video, at {shown} of the way"
    return changes
