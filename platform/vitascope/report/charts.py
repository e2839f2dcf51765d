"""The report's plots, as SVG that follows the page's colours."""

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from vitascope.report.spread import Histogram

BLUE, ORANGE, GREEN, GREY = "#3b82f6", "#f08c2e", "#12a67c", "#98a2b3"  # readable on white and near-black
_TEXT = "#010203"  # stands for the page's text colour, which the SVG takes on as currentColor
_STYLE: Any = {
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
    "text.parse_math": False,
}


def losses(steps: pa.Table, held_out: pa.Table) -> Markup:
    """Training loss of every step, its running mean, and the held-out loss; dataset.STEPS and HELD_OUT."""

    def draw(axes: Axes) -> None:
        known = steps.filter(pc.is_valid(steps["loss"]))  # the others were skipped
        if len(known):
            _plot(axes, known, "loss", color=BLUE, label="train, running mean")
        if len(held_out):
            points = (held_out["step"].to_numpy(), held_out["val_loss"].to_numpy())
            axes.plot(*points, "o-", color=ORANGE, linewidth=1.6, markersize=4, label="held out")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter("{x:.2g}")
        axes.yaxis.set_minor_formatter("")
        axes.set(xlabel="step", ylabel="loss")
        axes.legend()

    return _svg("losses", draw)


def throughput(steps: pa.Table) -> Markup:
    """Tokens per second of every step, and its running mean; dataset.STEPS."""

    def draw(axes: Axes) -> None:
        _plot(axes, steps, "tokens_per_s", color=GREEN)
        axes.yaxis.set_major_formatter(EngFormatter())
        highest = pc.max(steps["tokens_per_s"]).as_py()
        axes.set(xlabel="step", ylabel="tokens/s", ylim=(0, highest * 1.1))

    return _svg("throughput", draw)


def pack_tokens(tokens: np.ndarray, budget: int) -> Markup:
    """Tokens of each pack (S, G) against the budget."""

    def draw(axes: Axes) -> None:
        at = np.repeat(np.arange(len(tokens)), tokens.shape[1])
        axes.scatter(at, tokens.ravel(), s=5, color=BLUE, alpha=0.6, linewidths=0, label="a pack")
        axes.axhline(budget, color=ORANGE, linewidth=1.2, label="budget")
        axes.yaxis.set_major_formatter(EngFormatter())
        axes.set(xlabel="step", ylabel="tokens", ylim=(0, budget * 1.15))
        axes.legend(loc="lower right", ncols=2)

    return _svg("tokens", draw)


def rank_costs(costs: np.ndarray) -> Markup:
    """Cost of each rank's packs in a step (S, R), over the step's mean."""

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


def histogram(bins: Histogram, limits: Mapping[str, float], label: str, unit: str) -> Markup:
    """Items by value, those that are kept before all of them, and what lies beyond each limit."""

    def draw(axes: Axes) -> None:
        drawn = functools.partial(
            axes.bar, bins.edges[:-1], width=np.diff(bins.edges), align="edge", linewidth=0
        )
        if (bins.kept < bins.counts).any():
            drawn(bins.counts, color=GREY, label="dropped")
        drawn(bins.kept, color=BLUE, label="kept")
        if bins.is_spiky:
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.7)
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        if bins.log:
            axes.set_xscale("log")
        axes.set(xlabel=label, ylabel=unit, xlim=(bins.edges[0], bins.edges[-1]))
        axes.xaxis.set_major_formatter("{x:g}")
        for name, limit in limits.items():
            end = bins.edges[0] if name == "min" else bins.edges[-1]
            axes.axvspan(limit, end, color=ORANGE, alpha=0.15, linewidth=0)
            axes.axvline(limit, color=ORANGE, linewidth=1.4, label=f"{name} {limit:g}")
        if axes.get_legend_handles_labels()[1] != ["kept"]:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderpad=0)

    return _svg("histogram" + label, draw, height=2.1)


def loss_by_timestep(timesteps: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Markup:
    """Held-out loss against the noise level, a curve for each size."""

    def draw(axes: Axes) -> None:
        colors = mpl.colormaps["plasma"](np.linspace(0.3, 0.75, len(curves)))
        for (name, values), color in zip(curves.items(), colors, strict=True):
            axes.plot(timesteps, values, "o-", color=color, linewidth=1.2, markersize=3, label=name)
        axes.set(xlabel="noise level", ylabel="loss")
        if len(curves) <= 12:
            axes.legend(fontsize=7, ncols=2)

    return _svg("timesteps", draw)


def _plot(axes: Axes, steps: pa.Table, name: str, **style: Any) -> None:
    """A column by step, faint, and its running mean over about a fortieth of the run."""
    at, values = steps["step"].to_numpy(), steps[name].to_numpy()
    width = max(1, len(values) // 40)
    padded = np.pad(values, (width, width), mode="edge")
    mean = np.convolve(padded, np.ones(2 * width + 1) / (2 * width + 1), mode="valid")
    axes.plot(at, values, color=style["color"], alpha=0.25, linewidth=0.8)
    axes.plot(at, mean, linewidth=1.6, **style)


def _svg(name: str, draw: Callable[[Axes], None], height: float = 2.7) -> Markup:
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
    drawing = re.sub(r' (width|height)="[^"]*pt"', "", drawing, count=2)
    return Markup(drawing.replace("<svg ", '<svg role="img" class="chart" ', 1))
