"""Board and rules: every series that they name is one that the code exports, and all are shown."""

import json
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from sphere_ray.reporting.ray_metrics import series
from tests.monitoring.scrape import present
from tests.monitoring.series import MONITORING, board, named, rules


def test_every_series_is_exported_and_every_exported_one_is_on_the_board() -> None:
    assert named() == series()


def test_panels_do_not_overlap_and_say_where_their_data_come_from() -> None:
    panels = board()["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(
        panel["datasource"]["uid"] == "${datasource}" for panel in panels if "targets" in panel
    )


def test_alerts_cover_what_stops_a_run_from_being_useful() -> None:
    names = {rule["alert"] for rule in rules()}
    assert names == {"SphereNoProgress", "SphereEnginesIdle", "SphereRowsFail", "SphereCollapse"}
    assert all({"summary", "action"} <= set(rule["annotations"]) for rule in rules())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_prometheus_accepts_the_rules() -> None:
    subprocess.run(["promtool", "check", "rules", str(MONITORING / "alerts.yaml")], check=True)


def test_the_scraper_finds_what_prometheus_knows() -> None:
    class Prometheus(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": ["ray_sphere_phase"]}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Prometheus) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert present(f"http://127.0.0.1:{server.server_port}") == {"ray_sphere_phase"}
        server.shutdown()
