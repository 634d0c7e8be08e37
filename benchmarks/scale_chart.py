"""Images per second of one job against the cores it has, and what binds: docs/scale.png."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scale_cluster import Fleet, Settings, sum_machines
from scale_inputs import LOOSE, MILLION, TAR, build_work, time_listing
from scale_simulation import simulate

from mnist_ocr.labelling.instances import find_instance
from mnist_ocr.labelling.limits import (
    CORES,
    DRIVER,
    LISTING,
    REQUESTS,
    Workload,
    estimate,
)

NUM_IMAGES = 100 * MILLION

COLORS = {CORES: "#4c72b0", REQUESTS: "#c44e52", LISTING: "#dd8452", DRIVER: "#8172b3"}

NAMES = {
    CORES: "the vCPUs of c7i.2xlarge",
    REQUESTS: "S3, 5,500 GETs/s a prefix",
    LISTING: "the listing, one process",
    DRIVER: "the driver, shards of 8,192",
}

NODES = {"c7i.2xlarge": (1, 2, 4, 8, 16, 32, 64, 128), "g6.xlarge": (1, 2, 4, 8)}

MARKERS = {"c7i.2xlarge": "o", "g6.xlarge": "^"}


def draw_chart(path: Path, settings: Settings) -> None:
    """Two panels, loose objects and tars: each limit a line, simulated jobs as points."""
    figure = Figure((11, 5.2), dpi=110, facecolor="white", layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_panel(panels[0], LOOSE, "one GET an object", settings)
    _draw_panel(panels[1], TAR, "images in tar files", settings)
    panels[0].set_ylabel("images/s of one job")
    figure.suptitle("One labelling job of 100 million images: what binds it", fontsize=13)
    handles = [
        Line2D([], [], ls="", marker=marker, color="white", mec="black", ms=7, label=label)
        for marker, label in (
            ("o", "simulated, c7i.2xlarge, the prefix is divided"),
            ("s", "the same, it is not"),
            ("^", "simulated, g6.xlarge with its GPU (its speed is assumed)"),
        )
    ]
    title = "filled in the colour of the busiest limit"
    figure.legend(handles=handles, title=title, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, metadata={"Software": None})


def _draw_panel(axes: Axes, form: str, title: str, settings: Settings) -> None:
    work = build_work(form, NUM_IMAGES)
    _draw_limits(axes, work, settings.max_partitions)
    cases = [(name, MARKERS[name], settings) for name in NODES]
    if form == LOOSE:
        cases.append(("c7i.2xlarge", "s", replace(settings, max_partitions=1)))
    for name, marker, own in cases:
        for count in NODES[name]:
            found = simulate(work, [Fleet(name, count)], own, list_wait_s=time_listing(form, work))
            num_cpus = count * find_instance(name).num_cpus
            color = COLORS[found.limit]
            axes.plot(num_cpus, NUM_IMAGES / found.job_s, marker, color=color, ms=7, mec="black")
    axes.set(xscale="log", yscale="log", xlim=(1.8, 1250), ylim=(3e3, 2e6), xlabel="vCPUs")
    ticks = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    labels = {1e4: "10,000", 1e5: "100,000", 1e6: "1,000,000"}
    axes.set_yticks(list(labels), list(labels.values()))
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_limits(axes: Axes, work: Workload, num_partitions: int) -> None:
    """The formula's: each limit a line, the cores' by their number."""
    hours = estimate(work, sum_machines([Fleet("c7i.2xlarge", 1)])).hours
    rates = {name: NUM_IMAGES / 3600 / each for name, each in hours.items()}
    counts = np.array([1.8, 1250])
    axes.plot(counts, rates[CORES] * counts / 8, color=COLORS[CORES], lw=1.4)
    y = rates[CORES] * 60 / 8 * 1.1
    axes.text(60, y, NAMES[CORES], color=COLORS[CORES], ha="right")
    lines = [(rates[LISTING], LISTING, NAMES[LISTING], "--")]
    lines.append((rates[DRIVER], DRIVER, NAMES[DRIVER], "--"))
    if work.num_gets >= NUM_IMAGES:
        lines.append((rates[REQUESTS], REQUESTS, NAMES[REQUESTS], "--"))
        text = f"S3, divided in {num_partitions}"
        lines.append((rates[REQUESTS] * num_partitions, REQUESTS, text, ":"))
    for rate, limit, text, style in lines:
        axes.axhline(rate, color=COLORS[limit], lw=1.4, ls=style)
        x, side = (2, "left") if limit == DRIVER else (1200, "right")
        axes.text(x, rate * 1.16, text, color=COLORS[limit], ha=side)
