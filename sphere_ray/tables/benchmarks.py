"""Models on named benchmarks as tables: a row for each set and model."""

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sphere_ray.reporting.benchmark_summary import BenchmarkSummary
from sphere_ray.tables.cells import UNKNOWN, percent, points

_HEADINGS = ("n", "pass@1 %", "95%", "k", "mean@k %", "95%", "maj@k %", "pass@4 %", "pass@8 %")


def print_benchmarks(
    summaries: Mapping[str, BenchmarkSummary], console: Console, caption: str = ""
) -> None:
    """Print the figures, and what changes from each set's first model to the others."""
    figures, changes = [], []
    for name, summary in summaries.items():
        for model, score in summary["models"].items():
            cells = [
                f"{score['n']:,}",
                percent(score["pass@1"]),
                _interval(score["ci95"]),
                str(score["samples"] or UNKNOWN),
                percent(score["mean@k"]),
                _interval(score["mean_ci95"]),
                *(percent(value) for value in (score["maj@k"], score["pass@4"], score["pass@8"])),
            ]
            figures.append([name, model, *cells])
        for model, change in summary["changes"].items():
            gain = points(change["difference"])
            interval = " to ".join(map(points, change["ci95"]))
            p = f"{change['p_value']:.2g}"
            changes.append([name, model, change["of"], f"{change['n']:,}", gain, interval, p])
    if figures:
        remarks = "\n".join([*_remarks(summaries), *filter(None, [caption])])
        console.print(_table("Benchmarks", _HEADINGS, figures, remarks))
    if changes:
        title = "Changes against the first model of a set, paired by problem"
        chance = "by chance, p is below 0.05 in 1 of 20 rows where nothing changed"
        console.print(_table(title, ("of", "n", "+/-", "95%", "p"), changes, chance))


def _table(title: str, headings: Iterable[str], rows: list[list[str]], caption: str) -> Table:
    """A table without the columns that say nothing."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = Text(caption)
    table.add_column("set", no_wrap=True)
    table.add_column("model", overflow="fold")
    shown = [0, 1]
    for place, heading in enumerate(headings, start=2):
        if any(row[place] != UNKNOWN for row in rows):
            table.add_column(heading, justify="right")
            shown.append(place)
    for row in rows:
        table.add_row(*(Text(row[place]) for place in shown))
    return table


def _remarks(summaries: Mapping[str, BenchmarkSummary]) -> list[str]:
    lines = []
    for name, summary in summaries.items():
        whole = summary["of"]
        if whole is not None and summary["problems"] < whole:
            lines.append(f"{name}: {summary['problems']:,} of its {whole:,} problems")
        lines += [
            f"{name}, {model}: {score['failed']:,} not answered"
            for model, score in summary["models"].items()
            if score["failed"]
        ]
    return lines


def _interval(bounds: list[float] | None) -> str:
    return UNKNOWN if bounds is None else " to ".join(map(percent, bounds))
