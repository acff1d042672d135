"""The series that the board and the alert rules name."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parents[2] / "cluster" / "monitoring"
NAME = re.compile(r"\bray_\w+")


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (MONITORING / "sphere_grafana_dashboard.json").read_text(encoding="utf-8")
    )
    return found


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """Every query of the board and the rules."""
    targets = [target for panel in board()["panels"] for target in panel.get("targets", ())]
    variables = [
        each["definition"] for each in board()["templating"]["list"] if "definition" in each
    ]
    return [
        *(target["expr"] for target in targets),
        *variables,
        *(rule["expr"] for rule in rules()),
    ]


def named() -> set[str]:
    """Every series in them."""
    return {name for expression in expressions() for name in NAME.findall(expression)}
