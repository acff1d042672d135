"""What a report may say beyond summary.json, again, from the files alone and without sphere_ray.

Deliberately a second implementation. The result has the shape of `/runs/N/data` on the page, as far
as numbers and texts of the page come from there.
"""

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

STAGES = ("self_generation", "self_correction", "diversity")
DEEPEST = 8


def data_of(run_dir: Path) -> dict[str, Any]:
    """All of it for one run."""
    config = json.loads((run_dir / "config.json").read_text())
    summary = json.loads((run_dir / "summary.json").read_text())
    manifests = {
        name: json.loads((run_dir / name / "manifest.json").read_text())
        for name in summary["steps"]
    }
    return {
        "about": about(run_dir, config, manifests),
        "cost": cost(config, manifests),
        "flips": flips(run_dir, manifests),
        "iterations": [iteration(run_dir, item) for item in summary["iterations"]],
        "steps": [step(name, manifest) for name, manifest in manifests.items()],
    }


def rows(folder: Path) -> list[dict[str, Any]]:
    files = sorted(path for path in folder.glob("*.parquet") if path.name[0] not in "._")
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def about(run_dir: Path, config: dict[str, Any], manifests: dict[str, Any]) -> dict[str, Any]:
    made = sorted(manifest["created"] for manifest in manifests.values())
    last = list(manifests.values())[-1]["versions"]
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    small = config["engines"]["small"]
    return {
        "name": config["name"],
        "run_dir": config["run_dir"],
        "seed": config["seed"],
        "iterations": config["iterations"],
        "model": config["engines"]["policy"]["path"],
        "small": small if isinstance(small, str) else small["path"],
        "scorer": config["engines"]["scorer"]["kind"],
        "problems": [
            {
                "count": len(rows(run_dir / "problems" / split)),
                "source": config["problems"][split]["source"],
            }
            for split in ("train", "validation", "test")
        ],
        "began": made[0][:16].replace("T", " "),
        "ended": made[-1][:16].replace("T", " "),
        "machine": last.get("machine"),
        "cluster": events[-1]["cluster"],
        "versions": {name: version for name, version in last.items() if name != "machine"},
    }


def step(name: str, manifest: dict[str, Any]) -> dict[str, Any]:
    report = manifest["report"]
    return {
        "directory": name,
        "created": manifest["created"][:16].replace("T", " "),
        "fingerprint": manifest["fingerprint"][:12],
        "output": manifest["output"][:12],
        **{key: report[key] for key in ("rows_in", "rows_out", "seconds")},
    }


def cost(config: dict[str, Any], manifests: dict[str, Any]) -> dict[str, Any]:
    reports = {name: manifest["report"] for name, manifest in manifests.items()}
    engines, phases = [], defaultdict(lambda: {"seconds": 0.0, "tokens": 0})
    for name, report in reports.items():
        phase = phases[report["phase"].split("/")[0]]
        phase["seconds"] += report["seconds"]
        phase["tokens"] += sum(use["generated_tokens"] for use in report["pools"])
        for use in report["pools"]:
            gpus = 0.0
            if use["name"].startswith("policy"):
                pool = config["engines"]["policy_pool"]
                gpus = pool["gpus"] * pool["tensor_parallel"]
            hours = use["replicas"] * use["seconds"] / 3600
            engines.append(
                {
                    "step": name,
                    "pool": use["name"],
                    "replicas": use["replicas"],
                    "seconds": use["seconds"],
                    "tokens": use["generated_tokens"],
                    "tokens_per_second": use["generated_tokens"] / 3600 / hours,
                    "prefix_hits": use["prefix_hits"] / use["prefix_queries"],
                    "idle": 1 - use["busy_s"] / 3600 / hours,
                    "engine_hours": hours,
                    "gpu_hours": hours * gpus,
                }
            )
    trainer = config["trainer"]
    workers = [
        {
            "step": name,
            "workers": trainer["workers"],
            "seconds": report["seconds"],
            "worker_hours": trainer["workers"] * report["seconds"] / 3600,
            "gpu_hours": trainer["use_gpu"] * trainer["workers"] * report["seconds"] / 3600,
        }
        for name, report in reports.items()
        if name.split("/")[-1] in ("policy", "half_rate", "reference", "reward")
    ]
    pairs = sum(report["rows_out"] for name, report in reports.items() if name.endswith("/pairs"))
    tokens = sum(report["tokens"] for name, report in reports.items() if "rollouts" in name)
    rolled = sum(each["engine_hours"] for each in engines if "rollouts" in each["step"])
    gpu_hours = sum(each["gpu_hours"] for each in [*engines, *workers])
    return {
        "seconds": sum(report["seconds"] for report in reports.values()),
        "decoded_tokens": sum(each["tokens"] for each in engines),
        "engine_hours": sum(each["engine_hours"] for each in engines),
        "worker_hours": sum(each["worker_hours"] for each in workers),
        "gpu_hours": gpu_hours,
        "pairs": pairs,
        "continued": 0,
        "pairs_per_1000_tokens": pairs / tokens * 1000,
        "pairs_per_engine_hour": pairs / rolled,
        "pairs_per_gpu_hour": pairs / gpu_hours if gpu_hours else None,
        "phases": list(phases.values()),
        "engines": engines,
        "workers": workers,
    }


def flips(run_dir: Path, manifests: dict[str, Any]) -> dict[str, int]:
    tests = [name for name in manifests if name.startswith("test/")]
    base, final = (
        {
            row["problem_id"]: row["verdict"] == "correct"
            for row in rows(run_dir / name)
            if row["error"] is None
        }
        for name in (tests[0], tests[-1])
    )
    cells = [(base[name], final[name]) for name in base if name in final]
    return {
        "right_in_both": cells.count((True, True)),
        "wrong_in_both": cells.count((False, False)),
        "gained": cells.count((False, True)),
        "lost": cells.count((True, False)),
    }


def iteration(run_dir: Path, item: dict[str, Any]) -> dict[str, Any]:
    folder = run_dir / f"iter-{item['iteration']:03}"
    found = rows(folder / "rollouts")
    dropped = rows(folder / "pairs" / "dropped")
    routes = Counter(entry for row in found for entry in row["route"])
    return {
        "proposed": len(rows(folder / "pairs")) + len(dropped),
        "routes": [
            {"count": count, "text": entry.replace(":", " ").replace("_", " ")}
            for entry, count in sorted(routes.items(), key=_place)
        ],
        "rewards": rewards(found),
        "trainings": [
            training(path)
            for kind in ("policy", "half_rate")
            if (path := folder / kind / "training.json").exists()
        ],
    }


def _place(route: tuple[str, int]) -> tuple[int, str, int, str]:
    stage, outcome = route[0].split(":")
    return ([*STAGES, stage].index(stage), stage, -route[1], outcome)


def rewards(found: list[dict[str, Any]]) -> dict[str, Any]:
    by_depth, spreads = defaultdict(list), []
    bins = [[0, 0.0, 0] for _ in range(10)]
    for row in found:
        seen = set()
        for chain in row["chains"]:
            before: tuple[int, ...] = ()
            for depth, each in enumerate(chain["steps"], 1):
                key = json.dumps([chain["stage"], chain["seed"], before, each["candidates"]])
                known = [c["reward"] for c in each["candidates"] if c["reward"] is not None]
                if key not in seen:
                    seen.add(key)
                    by_depth[chain["stage"], min(depth, DEEPEST)] += known
                    if len(known) > 1:
                        spreads.append(max(known) - min(known))
                taken = each["candidates"][each["chosen"]]
                if taken["reward"] is not None and depth < len(chain["steps"]):
                    cell = bins[min(int(taken["reward"] * 10), 9)]
                    cell[0] += 1
                    cell[1] += taken["reward"]
                    cell[2] += chain["verdict"] == "correct"
                before = (*before, *taken["token_ids"])
    ordered = sorted(by_depth.items(), key=lambda each: (STAGES.index(each[0][0]), each[0][1]))
    return {
        "by_depth": [
            {"depth": depth, "steps": len(known), "mean": math.fsum(known) / len(known)}
            for (_, depth), known in ordered
            if known
        ],
        "spread": {
            "positions": len(spreads),
            "mean": math.fsum(spreads) / len(spreads),
            "equal": spreads.count(0) / len(spreads),
            "bins": [sum(min(int(s * 10), 9) == tenth for s in spreads) for tenth in range(10)],
        },
        "calibration": [
            {"steps": steps, "score": score / steps, "value": right / steps}
            for steps, score, right in bins
            if steps
        ],
    }


def training(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    found["candidate"] = {"policy": "trained", "half_rate": "half_rate"}[path.parent.name]
    history = found.get("history", [])
    every = found["every"] = max(1, math.ceil(len(history) / 100))
    found["history"] = [
        each for each in history if (history[-1]["step"] - each["step"]) % every == 0
    ]
    return found
