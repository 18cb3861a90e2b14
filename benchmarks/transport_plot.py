"""The picture of tasks a second over SQS's latency, from what `benchmarks.transport` found."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.transport_worker import BATCHING, STOCK

LINES = {STOCK: ("stock_tasks_per_s", "kombu's own transport"), BATCHING: ("tasks_per_s", "batching transport")}


def draw(curve: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """Tasks a second of both transports, by milliseconds of latency; both axes are logarithmic."""
    mpl.rcParams.update({"svg.hashsalt": "transport", "svg.fonttype": "none"})
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    points = sorted(curve, key=float)
    places = [float(point) for point in points]
    for (key, name), style in zip(LINES.values(), ("--s", "-o"), strict=True):
        rates = [curve[point][key] for point in points]
        axes.plot(places, rates, style, label=name)
        for place, rate in zip(places, rates, strict=True):
            axes.annotate(
                f"{rate:,.0f}", (place, rate), (0, 7), textcoords="offset points", ha="center", fontsize=8
            )
    axes.set(
        xscale="log", yscale="log", xlabel="latency of a call to SQS [ms]", ylabel="tasks a second, one worker"
    )
    axes.set_xticks(places, points)
    axes.minorticks_off()
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, format="svg", metadata={"Date": None})
