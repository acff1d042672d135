"""The board as a picture, where there is no Grafana: its own queries, answered by a Prometheus.

`python -m tests.monitoring.draw URL FILE [MINUTES]`; FILE is a PNG. Panels stand where the board
has them; what Grafana adds (colours of its own, a heat map's cells) is missing.
"""

import re
import sys
import time
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.monitoring.scrape import asked
from tests.monitoring.series import board

COLUMNS, CELL_IN = 24, 0.55
_LABEL = re.compile(r"\{\{(\w+)\}\}")


def draw(prometheus: str, file: str, minutes: float) -> None:
    """Draw every panel that has queries, over the last minutes."""
    panels = [panel for panel in board()["panels"] if panel.get("targets")]
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(COLUMNS * CELL_IN, bottom * CELL_IN), dpi=75)
    for panel in panels:
        place = panel["gridPos"]
        left, width = place["x"] / COLUMNS, place["w"] / COLUMNS
        low, height = 1 - (place["y"] + place["h"]) / bottom, place["h"] / bottom
        axes = figure.add_axes((left + 0.03, low + 0.02, width - 0.045, height - 0.045))
        _panel(axes, panel, prometheus, minutes)
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
