"""Run the checks one by one, each in a process of its own; one JSON file and a table."""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sphere_ray.machine import machine

CHECKS = {
    "parity": "training on this device against the CPU: loss curves",
    "attention": "attention over a prefix tree against a mask: difference, time, memory",
    "speed-1.5b": "a training step at the shape of Qwen2.5-1.5B",
    "speed-7b": "a training step at the shape of Qwen2.5-7B",
    "engine": "vLLM: log-probs, reward scores, exchange of weights, release of memory",
}
MODULES = {"parity": "parity", "attention": "attention", "engine": "engine"}
TOTAL_S, LEAST_S = 570, 20


def why_not(name: str, *, tiny: bool) -> str | None:
    """Why a check cannot run here."""
    if not tiny and not torch.cuda.is_available():
        return "torch sees no GPU"
    if name == "engine" and importlib.util.find_spec("vllm") is None:
        return "vllm is not installed"
    return None


def checked(name: str, *, tiny: bool, seconds: float) -> dict[str, Any]:
    """What a check came to."""
    if reason := why_not(name, tiny=tiny):
        return {"status": "not run", "reason": reason}
    if seconds < LEAST_S:
        return {"status": "not run", "reason": f"the {TOTAL_S} seconds of all checks were over"}
    command = [sys.executable, "-m", f"tests.gpu.{MODULES.get(name, 'speed')}", name]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*command, *(["--tiny"] if tiny else [])],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": f"it took longer than {seconds:.0f} s"}
    took = {"seconds": round(time.monotonic() - began, 1)}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    figures = json.loads(lines[-1]) if lines else {}
    if done.returncode:
        reason = "\n".join(done.stderr.strip().splitlines()[-15:])
        return {"status": "failed", "reason": reason, **took, "figures": figures}
    return {"status": "passed", **took, "figures": figures}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown; what has not run is among them."""
    rows = ["| check | what | result | figures |", "|---|---|---|---|"]
    for name, result in results.items():
        figures = ", ".join(f"{key} {value}" for key, value in result.get("figures", {}).items())
        said = result["status"]
        if reason := result.get("reason"):
            said += f": {reason.splitlines()[-1]}"
        rows.append(f"| {name} | {CHECKS[name]} | {said} | {figures} |")
    return "\n".join(rows)


def main() -> None:
    """Run all; the exit code is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, on a CPU too")
    chosen = parser.parse_args()
    end, results = time.monotonic() + TOTAL_S, {}
    for name in CHECKS:
        seconds = end - time.monotonic()
        results[name] = checked(name, tiny=chosen.tiny, seconds=seconds)
        where = {"machine": machine(), "torch": torch.__version__, "tiny": chosen.tiny}
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(where | {"checks": results}, indent=1) + "\n", "utf-8")
    sys.stdout.write(f"{table(results)}\n")
    if any(result["status"] == "failed" for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
