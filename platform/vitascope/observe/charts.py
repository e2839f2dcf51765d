"""The report's plots, as SVG that follows the page's colours."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

BLUE, ORANGE, GREEN = "#3b82f6", "#f08c2e", "#12a67c"  # readable on white and on near-black
_TEXT = "#010203"  # stands for the page's text colour, which the SVG takes on as currentColor
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.color": _TEXT,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
}


def losses(steps: Sequence[Mapping], held_out: Sequence[Mapping]) -> str:
    """Training loss of every step, its running mean, and the held-out loss."""

    def draw(axes: Axes) -> None:
        at = np.array([row["step"] for row in steps])
        loss = np.array([row["loss"] for row in steps])
        axes.plot(at, loss, color=BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(at, _smooth(loss), color=BLUE, linewidth=1.6, label="train, running mean")
        if held_out:
            points = [(row["step"], row["val_loss"]) for row in held_out]
            axes.plot(
                *zip(*points, strict=True), "o-", color=ORANGE, linewidth=1.6, markersize=4, label="held out"
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter("{x:.2g}")
        axes.yaxis.set_minor_formatter("")
        axes.set(xlabel="step", ylabel="loss")
        axes.legend()

    return _svg("losses", draw)


def throughput(steps: Sequence[Mapping]) -> str:
    """Tokens per second of every step, and its running mean."""

    def draw(axes: Axes) -> None:
        at = [row["step"] for row in steps]
        rate = np.array([row["tokens_per_s"] for row in steps])
        axes.plot(at, rate, color=GREEN, alpha=0.25, linewidth=0.8)
        axes.plot(at, _smooth(rate), color=GREEN, linewidth=1.6)
        axes.yaxis.set_major_formatter(EngFormatter())
        axes.set(xlabel="step", ylabel="tokens/s", ylim=(0, rate.max() * 1.1))

    return _svg("throughput", draw)


def pack_tokens(tokens: np.ndarray, budget: int) -> str:
    """Tokens of each pack (S, G) against the budget."""

    def draw(axes: Axes) -> None:
        at = np.repeat(np.arange(len(tokens)), tokens.shape[1])
        axes.scatter(at, tokens.ravel(), s=5, color=BLUE, alpha=0.6, linewidths=0, label="a pack")
        axes.axhline(budget, color=ORANGE, linewidth=1.2, label="budget")
        axes.yaxis.set_major_formatter(EngFormatter())
        axes.set(xlabel="step", ylabel="tokens", ylim=(0, budget * 1.15))
        axes.legend(loc="lower right", ncols=2)

    return _svg("tokens", draw)


def rank_costs(costs: np.ndarray) -> str:
    """Cost of each rank's share of a step (S, R), over the step's mean."""

    def draw(axes: Axes) -> None:
        relative = costs / costs.mean(axis=1, keepdims=True)
        for rank, color in zip(range(costs.shape[1]), (BLUE, ORANGE, GREEN) * costs.shape[1], strict=False):
            label = f"rank {rank}" if costs.shape[1] <= 4 else None
            axes.plot(relative[:, rank], color=color, linewidth=1.2, label=label)
        reach = max(0.05, 1.2 * float(np.abs(relative - 1).max()))
        axes.set(xlabel="step", ylabel="cost / mean of ranks", ylim=(1 - reach, 1 + reach))
        if costs.shape[1] <= 4:
            axes.legend(loc="lower right", ncols=4)

    return _svg("costs", draw)


def bars(counts: Mapping[str, float], unit: str) -> str:
    """A horizontal bar for each name, the largest first."""

    def draw(axes: Axes) -> None:
        names = sorted(counts, key=lambda name: counts[name])
        drawn = axes.barh(names, [counts[name] for name in names], color=BLUE, height=0.7)
        axes.bar_label(drawn, fmt="{:,.4g}", padding=3)
        axes.grid(visible=False)
        axes.set(xlabel=unit)
        axes.margins(x=0.12, y=0.02)

    return _svg("bars-" + unit, draw, height=max(1.2, 0.5 + 0.24 * len(counts)))


def loss_by_timestep(timesteps: Sequence[float], curves: Mapping[str, Sequence[float]]) -> str:
    """Held-out loss against the noise level, a curve for each size."""

    def draw(axes: Axes) -> None:
        colors = mpl.colormaps["plasma"](np.linspace(0.3, 0.75, len(curves)))
        for (name, values), color in zip(curves.items(), colors, strict=True):
            axes.plot(timesteps, values, "o-", color=color, linewidth=1.2, markersize=3, label=name)
        axes.set(xlabel="noise level", ylabel="loss")
        if len(curves) <= 12:
            axes.legend(fontsize=7, ncols=2)

    return _svg("timesteps", draw)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over about a fortieth of the run."""
    width = max(1, len(values) // 40)
    padded = np.pad(values, (width, width), mode="edge")
    return np.convolve(padded, np.ones(2 * width + 1) / (2 * width + 1), mode="valid")


def _svg(name: str, draw: Callable[[Axes], None], height: float = 2.7) -> str:
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(6.4, height), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=True)
        axes.set_axisbelow(True)
        draw(axes)
        sink = io.StringIO()
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    drawing = sink.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(_TEXT, "currentColor")
    drawing = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", drawing, count=1)
    return re.sub(r'<svg ([^>]*?)height="[^"]*"', r'<svg \1role="img" class="chart"', drawing, count=1)
