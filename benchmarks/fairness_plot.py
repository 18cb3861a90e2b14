"""The picture of what the constants of fairness do, from what `benchmarks.fairness_sim` found."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.fairness_sim import WINDOW
from integrator.dispatch import LIVE_PLACES

QUIET = "quiet tenants' p99, webhook to order [s]"


def draw(found: dict[str, Any], file: Path) -> None:
    """The window, what it costs a lone tenant, the share of the threads, the live places, systems that hang."""
    mpl.rcParams.update({"svg.hashsalt": "fairness", "svg.fonttype": "none"})
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    (by_window, by_share, by_hanging), (alone, places, rest) = figure.subplots(2, 3)
    rest.set_axis_off()
    quiet = found["quiet_p99_seconds"]
    for count, mark in zip(quiet["by window"], "os", strict=False):
        _line(by_window, quiet["by window"][count], f"{count} tenants", "-" + mark)
        _line(
            by_window,
            quiet["by window, no share"][count],
            f"{count} tenants, no share of the threads",
            "--" + mark,
        )
        _line(by_hanging, quiet["by systems that hang"][count], f"{count} tenants", "-" + mark)
        _line(by_share, quiet["by share"][count], f"{count} tenants", "-" + mark)
    _line(alone, found["lone_per_second"], "1 tenant", "-o")
    for seconds, values in found["live_p99_seconds"].items():
        _line(places, values, f"1 tenant, runs of {seconds}", "-o")
    _say(by_window, "The window: syncs of a gate in flight", "window", QUIET)
    _say(alone, "What the window lets a lone tenant do", "window", "orders per second")
    _say(by_share, "The share of a worker's 16 threads", "share of one tenant", QUIET)
    _say(by_hanging, "Systems that begin to hang at once", "systems", QUIET)
    _say(places, "Places kept for live orders, beside a backlog", "places", "live orders' p99 [s]")
    places.set(yscale="log", ylim=(0.5, None))
    for axes, value in ((by_window, WINDOW), (alone, WINDOW), (by_share, 0.25), (places, LIVE_PLACES)):
        if str(value) in (names := [label.get_text() for label in axes.get_xticklabels()]):
            axes.axvline(names.index(str(value)), color="grey", linewidth=8, alpha=0.2)
    figure.suptitle("Simulated, one worker: a flood, two slow systems with a backlog, and four systems that hang")
    figure.savefig(file, format="svg", metadata={"Date": None})


def _line(axes: Axes, values: dict[str, float], name: str, style: str) -> None:
    axes.plot(list(values), list(values.values()), style, label=name)


def _say(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
