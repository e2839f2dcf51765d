"""What the outputs of a batch took, and what they cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from vitascope.wording import count


@dataclass(frozen=True)
class Made:
    """A number of outputs, the duration of the videos among them, and the time of devices for them.

    device_s: in forward passes that ended well; a pass is divided among its requests by their patches.
    """

    clips: int = 0
    video_s: float = 0.0
    device_s: float = 0.0

    def __add__(self, other: "Made") -> "Made":
        return Made(self.clips + other.clips, self.video_s + other.video_s, self.device_s + other.device_s)

    def figures(self, device_hour_price: float | None) -> dict[str, float]:
        """Totals and rates; empty if no device has worked."""
        if not self.device_s:
            return {}
        hours = self.device_s / 3600
        price = {} if device_hour_price is None else {"cost_per_clip": hours * device_hour_price / self.clips}
        return {
            "clips": self.clips,
            "video_s": round(self.video_s, 3),
            "device_hours": hours,
            "clips_per_device_hour": self.clips / hours,
            "video_s_per_device_hour": self.video_s / hours,
        } | price


def figures(made: Mapping[str, Made], device_hour_price: float | None) -> dict[str, dict[str, float]]:
    """By mode, and of `all`. A device-hour is one of forward passes, without starts, idle time and decoding.

    Args:
        made: by mode.
    """
    everything = sum(made.values(), Made())
    found = {mode: own.figures(device_hour_price) for mode, own in {"all": everything, **made}.items()}
    return {mode: own for mode, own in found.items() if own}


def sentence(made: Mapping[str, dict[str, float]]) -> str | None:
    """The figures of all outputs in one sentence; None if there are none."""
    if not (own := made.get("all")):
        return None
    text = (
        f"{count(int(own['clips']), 'output')} took {own['device_hours']:.3g} device-hours in passes: "
        f"{own['clips_per_device_hour']:,.4g} outputs and {own['video_s_per_device_hour']:,.4g} s of video "
        "per device-hour"
    )
    return text + (f", {own['cost_per_clip']:.4g} per output" if "cost_per_clip" in own else "")
