"""report.html: one file that shows what runs did, alone or side by side, and needs nothing else."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sphere_ray import storage
from sphere_ray.errors import RunDirectoryError, UserError
from sphere_ray.provenance import versions
from sphere_ray.report import plots
from sphere_ray.report.cited import Cited
from sphere_ray.report.facts import Facts, run_facts
from sphere_ray.report.settings import differing_settings
from sphere_ray.report.svg import Plot
from sphere_ray.runs.directory import REPORT, Run

COMPARISON = "compare.html"
_METRICS = {
    "step_validity": ("Judged steps that are valid", "percent", "points"),
    "flawed_right": ("Right answers with a broken step", "percent", "points"),
    "first_error": ("Number of the first broken step, mean", "decimal", "signed"),
    "recovery": ("Answers with a broken step that are right", "percent", "points"),
    "propagation": ("Steps behind a broken one that are broken", "percent", "points"),
}


def write_report(paths: Sequence[str], output: str | None = None) -> str:
    """Write the report of finished runs, and return where.

    That is `output`, by default report.html in the run, or compare.html in the first of several.

    Raises:
        RunDirectoryError: a path is no finished run, or the page cannot be written.
        UserError: a run is named twice.
    """
    runs = [Run.open(path) for path in paths]
    twice = {run.path for run in runs if [each.path for each in runs].count(run.path) > 1}
    if twice:
        raise UserError(f"{min(twice)} is named twice; name each run once")
    default = runs[0].file(COMPARISON if len(runs) > 1 else REPORT)
    target = storage.resolve(output) if output else default
    page = render([run_facts(run) for run in runs], differing_settings([r.settings for r in runs]))
    try:
        storage.write_text(page, target)
    except OSError as error:
        raise RunDirectoryError(
            f"{target} cannot be written: {error.strerror or error}; choose another --output"
        ) from None
    return target


def render(runs: Sequence[Facts], differing: Sequence[tuple[str, list[str]]] = ()) -> str:
    """The page about the facts of one or several runs."""
    environment = Environment(
        loader=PackageLoader("sphere_ray.report"),
        autoescape=True,  # questions and answers are written by strangers and models
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    document = {
        "runs": runs,
        "differing": [{"name": name, "values": values} for name, values in differing],
        "together": _together(runs),
    }
    whole, names = Cited(document), _names(runs)
    several = len(runs) > 1
    return environment.get_template("page.html").render(
        whole=whole,
        runs=[_view(whole, index, names[index], several) for index in range(len(runs))],
        several=several,
        compared=_compared(runs, names) if several else [],
        metrics=_METRICS,
        version=versions().get("sphere-ray", ""),
        style=Markup(environment.get_template("style.css").render()),
    )


def _together(runs: Sequence[Facts]) -> dict[str, float] | None:
    """The gains on the test over several runs; None for one."""
    gains = [float(facts["summary"]["test"]["difference"]) for facts in runs]
    if len(gains) < 2:
        return None
    return {
        "runs": len(gains),
        "lowest": min(gains),
        "highest": max(gains),
        "mean": fmean(gains),
        "deviation": stdev(gains),
    }


def _names(runs: Sequence[Facts]) -> list[str]:
    """What tells the runs apart: their names; where these are equal, their directories."""
    names = [str(facts["summary"]["run"]) for facts in runs]
    paths = [str(facts["data"]["about"]["run_dir"]).rstrip("/") for facts in runs]
    for found in (names, [path.rpartition("/")[2] for path in paths]):
        if len(set(found)) == len(found):
            return found
    return paths


def _view(whole: Cited, index: int, name: str, several: bool) -> dict[str, Any]:
    """What the templates need of one run: its facts, its plots, and a prefix for ids."""
    facts, prefix = whole.at(f"/runs/{index}"), f"run{index}"
    iterations = [
        {
            "number": item["iteration"],
            "at": place,
            "plots": _iteration_plots(facts, place, f"{prefix}-it{place}"),
        }
        for place, item in enumerate(facts["summary"]["iterations"])
    ]
    return {
        "name": name,
        "id": prefix,
        "c": whole.below(f"/runs/{index}"),
        "level": 3 if several else 2,
        "iterations": iterations,
        "plots": {
            "accuracy": _present(
                plots.accuracy(facts, f"{prefix}-accuracy"),
                plots.families(facts, f"{prefix}-families"),
            ),
            "process": _present(
                plots.process(facts, f"{prefix}-process"),
                plots.propagation(facts, f"{prefix}-propagation"),
            ),
            "time": _present(
                plots.time(facts, f"{prefix}-time"), plots.engines(facts, f"{prefix}-engines")
            ),
        },
    }


def _iteration_plots(facts: Facts, place: int, prefix: str) -> dict[str, list[Plot]]:
    return {
        "funnel": _present(
            plots.outcomes(facts, place, f"{prefix}-outcomes"),
            plots.pairs(facts, place, f"{prefix}-pairs"),
        ),
        "rewards": _present(
            plots.reward_depths(facts, place, f"{prefix}-depths"),
            plots.spread(facts, place, f"{prefix}-spread"),
            plots.calibration(facts, place, f"{prefix}-calibration"),
        ),
        "training": plots.training(facts, place, f"{prefix}-training"),
    }


def _compared(runs: Sequence[Facts], names: Sequence[str]) -> list[Plot]:
    return _present(
        plots.gains(runs, names),
        plots.curves(runs, names, "margin", "Margin"),
        plots.curves(runs, names, "loss", "Loss"),
    )


def _present(*found: Plot | None) -> list[Plot]:
    return [plot for plot in found if plot is not None]
