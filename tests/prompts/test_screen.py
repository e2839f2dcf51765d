"""Prompts and frames that are refused, by the list or by functions."""

import numpy as np
import pytest

from vitascope.clips.filters import HookFilter
from vitascope.errors import Mistake
from vitascope.ledger import Reason, Rejected
from vitascope.prompts.screen import Screen, check, screened
from vitascope.prompts.settings import PromptsSettings

FRAMES = [np.full((4, 6, 3), value, np.uint8) for value in range(0, 200, 5)]


def hook(name: str, **limits: float) -> HookFilter:
    return HookFilter(use="drop", function=f"prompts.functions:{name}", **limits)


def test_the_list_is_on_by_default_and_can_be_turned_off() -> None:
    with pytest.raises(Rejected, match="child, nude") as refused:
        Screen(PromptsSettings()).check("a nude child")
    assert refused.value.reason == Reason.PROMPT_REFUSED
    Screen(PromptsSettings()).check("a cat")
    Screen(PromptsSettings(filter="off")).check("a nude child")


def test_a_function_refuses_with_its_reason() -> None:
    settings = PromptsSettings(filter="prompts.functions:no_dogs", filter_options={"animal": "cow"})
    Screen(settings).check("a dog")
    with pytest.raises(Rejected, match="no cows here"):
        Screen(settings).check("a cow")
    with pytest.raises(Mistake, match="gave True, expected a reason or None"):
        Screen(PromptsSettings(filter="prompts.functions:no_reason")).check("a cow")


def test_frames_pass_in_order_if_none_is_refused() -> None:
    passed = list(screened(iter(FRAMES), hook("brightness", max=200)))
    assert [frame[0, 0, 0] for frame in passed] == [frame[0, 0, 0] for frame in FRAMES]
    assert len(list(screened(FRAMES, HookFilter()))) == len(FRAMES)


def test_the_first_frame_beyond_the_limits_refuses_the_output() -> None:
    frames = screened(iter(FRAMES), hook("brightness", max=100))
    with pytest.raises(Rejected, match=r"frame 21 scores 105 by .*; allowed is max 100") as refused:
        list(frames)
    assert refused.value.reason == Reason.FRAMES_REFUSED


def test_a_frame_without_a_score_does_not_pass() -> None:
    with pytest.raises(Rejected, match="frame 0 scores nan"):
        list(screened(FRAMES, hook("unsure", max=1)))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"upsample": "prompts.functions:gone"}, "prompts.upsample"),
        ({"filter": "prompts.functions:gone"}, "prompts.filter"),
        ({"frames": hook("gone", max=1)}, "prompts.frames.function"),
        ({"filter": "prompts.functions:no_dogs", "filter_options": {"cat": 1}}, "prompts.filter"),
    ],
)
def test_functions_that_cannot_be_used_are_found_before_any_work(settings: dict, why: str) -> None:
    with pytest.raises(Mistake, match=why):
        check(PromptsSettings(**settings))
