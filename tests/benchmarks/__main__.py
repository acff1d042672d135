"""`make bench`: run the benchmarks one after the other, and write RESULTS.md and results.json.

`python -m tests.benchmarks grading million` runs some and keeps the other figures; a name may have
arguments: `python -m tests.benchmarks "overhead --run runs/laptop"`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from tests.benchmarks.report import machine

HERE = Path(__file__).parent
RESULTS, REPORT, PLOT = HERE / "results.json", HERE / "RESULTS.md", HERE / "million.png"
BENCHMARKS = (
    "grading",
    "step_search",
    "step_search_real",
    "reward",
    "dpo",
    "dpo --tokens 2048 --workers 1",
    "long_chains",
    "sampling",
    "million",
    "million_pairs",
    "overhead",
)
TARGETS = {
    "busy_share": ">= 0.97",
    "vs_async_llm": ">= 0.90",
    "vs_ray_data_llm": ">= 1.2",
    "vs_vllm_llm": "none",
    "search_vs_lockstep": ">= 2",
    "search_vs_any_lockstep": ">= 2, read strictly",
    "search_vs_lockstep_real": "none",
    "reward_prefill_ratio": "<= 1",
    "grading_numbers": ">= 20",
    "grading_latex": ">= 3",
    "dpo_vs_trl": ">= 1.5",
    "dpo_memory": "<= 0.7",
    "dpo_vs_trl_2048": ">= 2.0",
    "dpo_memory_2048": "<= 0.5",
    "long_chains_linear": "<= 1.2",
    "million_minutes": "<= 15",
    "million_summary_minutes": "<= 5",
    "million_memory_ratio": "<= 1.2",
    "pairs_memory_ratio": "<= 1.2",
    "overhead_s": "<= 60",
}


def run(name: str) -> dict[str, Any]:
    """The lines of one benchmark, by key."""
    command = [sys.executable, "-m", *f"tests.benchmarks.{name}".split()]
    print(f"$ python -m tests.benchmarks.{name}", flush=True)  # noqa: T201
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="", flush=True)  # noqa: T201
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    where = machine()
    return {line.pop("key"): line | {"command": " ".join(command[1:]), **where} for line in lines}


def draw(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Time and memory over chains."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for strategy, sizes in runs.items():
        chains = [size["chains"] for size in sizes]
        left.plot(chains, [size["seconds"] for size in sizes], marker="o", label=strategy)
        for kind in ("driver", "SelfGenerat"):  # kept figures may bear the older SelfGenerate
            memory = [
                next((mib for name, mib in size["peak_mib"].items() if kind in name), None)
                for size in sizes
            ]
            right.plot(chains, memory, marker="o", label=f"{strategy}, {kind}")
    left.set(xscale="log", yscale="log", xlabel="chains", ylabel="seconds")
    right.set(xscale="log", ylim=(0, None), xlabel="chains", ylabel="peak memory, MiB")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(PLOT, dpi=120)


def report(found: dict[str, Any]) -> str:
    """The figures as a page."""
    rows = [
        f"| {key} | {found[key]['value']} | {target} | `{found[key]['command']}` | "
        f"{found[key]['date']} |"
        for key, target in TARGETS.items()
        if key in found
    ]
    rows += [
        f"| {key} | not measured yet | {t} | | |" for key, t in TARGETS.items() if key not in found
    ]
    where = next(iter(found.values()))
    names = ("cpu", "cores", "memory_gib", "python", "ray", "torch", "transformers", "trl")
    parts = [
        "# Benchmarks",
        "Written by `make bench`; ratios of one run on one machine, and what they were made of.",
        ", ".join(f"{name} {where[name]}" for name in names if name in where),
        "\n".join(["| key | value | target | command | date |", "|---|---|---|---|---|", *rows]),
    ]
    if "million_minutes" in found:
        parts.append(f"![time and memory over chains]({PLOT.name})")
    for key, line in found.items():
        details = {k: v for k, v in line.items() if k not in {"value", "command", *machine()}}
        if details:
            text = json.dumps(details, indent=1, ensure_ascii=False)
            parts.append(f"<details><summary>{key}</summary>\n\n```json\n{text}\n```\n\n</details>")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run what is asked for, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or BENCHMARKS
    found = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    for name in names:
        found |= run(name)
        RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if "million_minutes" in found:
        draw(found["million_minutes"]["runs"])
    REPORT.write_text(report(found), "utf-8")


if __name__ == "__main__":
    main()
