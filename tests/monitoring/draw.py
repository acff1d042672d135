"""The board as a picture, where there is no Grafana: its own queries, answered by a Prometheus.

`python -m tests.monitoring.draw URL FILE [MINUTES]`; FILE is a PNG. What Grafana adds (the places
of panels, units, a heat map's cells) is missing.
"""

import re
import sys
import time
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.monitoring.scrape import asked
from tests.monitoring.series import board

COLUMNS = 4
_LABEL = re.compile(r"\{\{(\w+)\}\}")


def draw(prometheus: str, file: str, minutes: float) -> None:
    """Draw every panel that has queries, over the last minutes."""
    panels = [panel for panel in board()["panels"] if panel.get("targets")]
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.2 * rows), dpi=75, layout="constrained")
    for number, panel in enumerate(panels, 1):
        _panel(figure.add_subplot(rows, COLUMNS, number), panel, prometheus, minutes)
    figure.supxlabel("minutes", fontsize=9)
    figure.savefig(file)


def _panel(axes: Axes, panel: dict[str, Any], prometheus: str, minutes: float) -> None:
    axes.set_title(panel["title"], fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    now, drawn = time.time(), 0
    for target in panel["targets"]:
        query = target["expr"].replace("$run", ".*")
        span = {"start": now - 60 * minutes, "end": now, "step": minutes}
        for line in asked(prometheus, "query_range", query=query, **span)["result"]:
            labels = line["metric"]
            name = _LABEL.sub(lambda found, of=labels: of.get(found[1], ""), target["legendFormat"])
            times = [(float(at) - now) / 60 for at, _ in line["values"]]
            values = [float(value) for _, value in line["values"]]
            axes.plot(times, values, marker=".", markersize=3, linewidth=1.2, label=name.strip())
            drawn += 1
    axes.set_xlim(-minutes, 0)
    if drawn:
        axes.legend(fontsize=6, loc="upper left", frameon=False, ncols=2 if drawn > 4 else 1)
    else:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", fontsize=8)


if __name__ == "__main__":
    draw(sys.argv[1].rstrip("/"), sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 15)
