"""`sphere`: its commands; turns errors into one sentence and an exit code.

Owns no behaviour of its own. What the commands need is imported when they run, so that `--help`
and mistyped options answer at once.
"""

import io
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console

from sphere_ray import __version__
from sphere_ray.commands.options import EvaluationOptions, with_options
from sphere_ray.errors import ConfigError, SphereError
from sphere_ray.interruption import Interrupted, catch_signals
from sphere_ray.redaction import redact
from sphere_ray.untrusted import printable

if TYPE_CHECKING:
    from sphere_ray.config import RunSettings

app = typer.Typer(
    name="sphere",
    help="Make a small language model better at mathematics: search, reward, pair, tune, repeat.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
_out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
_tables = partial(Console, markup=False, emoji=False)


_MAX_MESSAGE_CHARS = 4000


class ExportFormat(StrEnum):
    """Formats that preference pairs are exported to."""

    TRL = "trl"
    HF = "hf"


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated."),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0, 1 (system), 2 (user), 128 + signal."""
    catch_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):  # words of strangers on a terminal without them
        sys.stdout.reconfigure(errors="backslashreplace")
    app(args=None if arguments is None else list(arguments), prog_name="sphere")


def _show_version(wanted: bool) -> None:
    if wanted:
        _out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of expected errors too.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    context.obj = debug


@app.command()
def run(
    context: typer.Context,
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file; examples are in jobs/configs.")
    ],
    overrides: Overrides = None,
    origin: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN", help="Start on the finished steps of another run."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the settings, the resources, and what each step would do; stop."
        ),
    ] = False,
) -> None:
    """Run the whole loop; the same command continues a run that was stopped."""
    from sphere_ray.config import load_config

    hint = "run the same command again to continue from the last committed work"
    with _outcomes(debug=context.obj, hint=hint):
        settings = load_config(config, overrides or [])
        if dry_run:
            _show_settings(settings)
            _show_plan(settings, origin)
            return
        from sphere_ray.commands.run import results_in
        from sphere_ray.commands.run import run as run_loop
        from sphere_ray.tables.run import print_summary

        print_summary(run_loop(settings, origin), _tables())
        _out.print(results_in(settings.run_dir))


@app.command()
def report(
    context: typer.Context,
    run_dirs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Directories of finished runs.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Page; default RUN/report.html, of several compare.html."
        ),
    ] = None,
) -> None:
    """Write one page that shows what a run did, or several runs side by side."""
    with _outcomes(debug=context.obj, hint="run the same command again"):
        from sphere_ray.report.page import write_report

        _out.print(write_report(run_dirs, output))


@app.command()
@with_options
def evaluate(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Model directory or name.")
    ] = None,
    *,
    options: EvaluationOptions,
) -> None:
    """Measure a model: greedy pass@1 and, of samples, mean@k; also on named benchmarks."""
    _measure(context, [model] if model else [], options)


@app.command()
@with_options
def compare(
    context: typer.Context,
    base: Annotated[str, typer.Argument(metavar="BASE", help="Model directory or name.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model directory or name.")],
    *,
    options: EvaluationOptions,
) -> None:
    """Measure two models on the same problems, and the change paired by problem."""
    _measure(context, [base, model], options)


def _measure(context: typer.Context, models: list[str], options: EvaluationOptions) -> None:
    with _outcomes(debug=context.obj, hint="only answers of an endpoint were kept"):
        options.check(models)
        from sphere_ray.commands.measure import measure

        measure(models, options, _tell, _tables())


def _tell(line: str) -> None:
    _out.print(_one_line(line))


@app.command()
def export(
    context: typer.Context,
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="Directory of a run.")],
    target: Annotated[ExportFormat, typer.Option("--format", help="Format to write.")],
    output: Annotated[
        str | None, typer.Option(help="Directory to write to; default RUN/export/FORMAT.")
    ] = None,
    iteration: Annotated[
        int | None, typer.Option(min=0, help="trl: export this iteration only; default all.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME", help="hf: upload to these repositories of the hub, too."
        ),
    ] = None,
) -> None:
    """Write the pairs of a run for other trainers, or model and pairs for the Hugging Face hub."""
    with _outcomes(debug=context.obj, hint="run the same command again"):
        if target is ExportFormat.HF:
            _export_hf(run_dir, output, iteration, push)
            return
        from sphere_ray.commands.export import export_trl

        if push is not None:
            raise ConfigError("--push needs --format hf; add it, or leave --push out")
        pairs = export_trl(run_dir, output=output, iteration=iteration)
        _out.print(f"{pairs.num_pairs} pairs in {pairs.jsonl} and {pairs.parquet}")


def _export_hf(run_dir: str, output: str | None, iteration: int | None, push: str | None) -> None:
    from sphere_ray.commands.export_hf import export_hf

    if iteration is not None:
        raise ConfigError("--format hf exports the final model; leave --iteration out")
    written = export_hf(run_dir, output=output, push=push)
    _out.print(f"the model in {written.model}, {written.num_pairs} pairs in {written.dataset}")
    for name in written.pushed:
        _out.print(f"pushed to {name}")


@app.command()
def train_prm(
    context: typer.Context,
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="Directory of a run.")],
    output: Annotated[
        str | None, typer.Option(help="Directory to work in; default RUN-prm beside the run.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train a process reward model on what a run's rollouts recorded; repeated, it continues."""
    with _outcomes(debug=context.obj, hint="run the same command again to continue"):
        from sphere_ray.commands import train_prm as command
        from sphere_ray.tables.run import print_trained_reward

        path, summary = command.train_prm(run_dir, output, overrides or [])
        print_trained_reward(summary, _tables())
        if path is not None:
            _out.print(path)


@app.command()
def tune(
    context: typer.Context,
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="Directory of a run.")],
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,VALUE", help="Values to try; may be repeated."),
    ] = None,
    iteration: Annotated[int, typer.Option(min=0, help="Train on the pairs of this one.")] = 0,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Try so many of the combinations, drawn at random; default all."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Try settings of training over the pairs a run has, and choose; repeated, it continues."""
    with _outcomes(debug=context.obj, hint="run the same command again to continue"):
        from sphere_ray.commands import tune as command
        from sphere_ray.tables.run import print_tuning

        summary = command.tune(
            run_dir, grid or [], overrides or [], iteration=iteration, num_trials=trials
        )
        print_tuning(summary, _tables())


@app.command()
def score_report(
    context: typer.Context,
    run_dir: Annotated[
        str, typer.Argument(metavar="RUN", help="Directory of a run or of `train-prm`.")
    ],
    problems: Annotated[
        str | None, typer.Option(help="URI of unseen problems; default the run's validation.")
    ] = None,
    completions: Annotated[
        int, typer.Option(min=2, help="Completions behind each fresh rollout value.")
    ] = 8,
    output: Annotated[
        str | None, typer.Option(help="Directory to work in; default RUN-scores beside the run.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Measure a run's reward sources against fresh rollout values; repeated, it continues."""
    with _outcomes(debug=context.obj, hint="run the same command again to continue"):
        from sphere_ray.commands import score_report as command
        from sphere_ray.tables.run import print_score_report

        report = command.score_report(
            run_dir,
            problems=problems,
            completions=completions,
            output=output,
            overrides=overrides or [],
        )
        print_score_report(report, _tables())


@app.command()
def proof(
    context: typer.Context,
    spec: Annotated[
        Path, typer.Argument(metavar="SPEC", help="YAML file; see jobs/configs/proof.yaml.")
    ],
    overrides: Overrides = None,
) -> None:
    """Compare variants of a configuration over seeds; repeated, it continues."""
    with _outcomes(debug=context.obj, hint="run the same command again to continue"):
        from sphere_ray.commands.proof import prove
        from sphere_ray.tables.proof import print_proof

        target, found = prove(spec, overrides or [])
        print_proof(found, _tables())
        _out.print(f"results are in {target}/proof.json and {target}/proof.png")


@app.command()
def audit(
    context: typer.Context,
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="Directory of a run.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8421,
    user: Annotated[
        str | None, typer.Option(help="Who decides; default the name of the account.")
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="Where decisions are noted; default RUN/audit.jsonl.")
    ] = None,
) -> None:
    """Browse a run's problems, chains and pairs on this machine, and accept or reject pairs."""
    with _outcomes(debug=context.obj, hint="every decision is in the file"):
        from sphere_ray.audit.server import serve

        serve(run_dir, port=port, user=user, file=file, say=_out.print)


def _show_settings(settings: "RunSettings") -> None:
    from sphere_ray.config.base import dump
    from sphere_ray.config.placement import needed_resources

    _out.print(yaml.safe_dump(dump(settings), sort_keys=False, allow_unicode=True).rstrip())
    _out.print(f"# needs {needed_resources(settings)}")


def _show_plan(settings: "RunSettings", origin: str | None) -> None:
    """One line a step: what would be done, in which directory, and why."""
    from sphere_ray.runs.evolve import plan as planned

    plans = planned(settings, origin)
    width = max(len(plan.step.place) for plan in plans)
    for plan in plans:
        directory = plan.path.rpartition("/")[2]
        variant = f" (as {directory})" if not plan.step.place.endswith(directory) else ""
        _out.print(f"# {plan.step.place:{width}}  {plan.state:8}  {plan.reason}{variant}")


@contextmanager
def _outcomes(*, debug: bool, hint: str) -> Iterator[None]:
    """Turn what ends a command early into a sentence and an exit code."""
    try:
        yield
    except BrokenPipeError:  # whoever read the output has left
        raise
    except Exception as error:
        told = error if isinstance(error, SphereError) else _disk_trouble(error)
        if debug or told is None:  # a mistake of ours; Python would print its secrets too
            _err.print(redact(traceback.format_exc()), end="")
        if told is not None:
            _err.print(f"error: {_one_line(str(told))}")
        raise typer.Exit(1 if told is None else told.exit_code) from error
    except KeyboardInterrupt as error:
        code = error.exit_code if isinstance(error, Interrupted) else 130
        _err.print(f"stopped; {hint}")
        raise typer.Exit(code) from error
    except SystemExit as error:
        # Ray's own signal handlers leave this way, some with code 0.
        _err.print(f"stopped; {hint}")
        raise typer.Exit(130) from error


def _disk_trouble(error: Exception) -> SphereError | None:
    from sphere_ray.storage import disk_trouble

    return disk_trouble(error)


def _one_line(text: str) -> str:
    """A message that cannot flood or steer a terminal, whatever strangers' text it quotes."""
    line = printable(text)
    return line if len(line) <= _MAX_MESSAGE_CHARS else f"{line[:_MAX_MESSAGE_CHARS]}..."


if __name__ == "__main__":
    main()
