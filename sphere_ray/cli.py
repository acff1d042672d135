"""`sphere`: its commands; turns errors into one sentence and an exit code.

Owns no behaviour of its own. What the commands need is imported when they run, so that `--help`
and mistyped options answer at once.
"""

import io
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sphere_ray import __version__
from sphere_ray.commands.options import EvaluationOptions, PlanOptions, with_options
from sphere_ray.errors import ConfigError
from sphere_ray.interruption import catch_signals
from sphere_ray.operations.commands import add_to
from sphere_ray.terminal import Overrides, out, outcomes, tables, tell

app = typer.Typer(
    name="sphere",
    help="Make a small language model better at mathematics: search, reward, pair, tune, repeat.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class ExportFormat(StrEnum):
    """Formats that preference pairs are exported to."""

    TRL = "trl"
    HF = "hf"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0, 1 (system), 2 (user), 128 + signal."""
    catch_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):  # words of strangers on a terminal without them
        sys.stdout.reconfigure(errors="backslashreplace")
    app(args=None if arguments is None else list(arguments), prog_name="sphere")


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
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
    wait: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", min=0, help="Let a cluster that is too small grow first."),
    ] = None,
) -> None:
    """Run the whole loop; the same command continues a run that was stopped."""
    from sphere_ray.config import load_config

    hint = "run the same command again to continue from the last committed work"
    with outcomes(debug=context.obj, hint=hint):
        waiting = [] if wait is None else [f"ray.wait_minutes={wait:g}"]
        settings = load_config(config, [*(overrides or []), *waiting])
        if dry_run:
            from sphere_ray.commands.plan import dry_run as lines

            for line in lines(settings, origin):
                out.print(line)
            return
        from sphere_ray.commands.run import results_in
        from sphere_ray.commands.run import run as run_loop
        from sphere_ray.tables.run import print_summary

        print_summary(run_loop(settings, origin), tables())
        out.print(results_in(settings.run_dir))


@app.command()
@with_options
def plan(
    context: typer.Context,
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file; examples are in jobs/configs.")
    ],
    overrides: Overrides = None,
    *,
    options: PlanOptions,
) -> None:
    """Say what a run needs and takes: memory, placement, time, GPU-hours, cost; start nothing."""
    with outcomes(debug=context.obj, hint="nothing was started"):
        from sphere_ray.commands.plan import plan as planned

        for line in planned(config, overrides or [], options):
            tell(line)


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
    with outcomes(debug=context.obj, hint="run the same command again"):
        from sphere_ray.report.page import write_report

        out.print(write_report(run_dirs, output))


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
    with outcomes(debug=context.obj, hint="only answers of an endpoint were kept"):
        options.check(models)
        from sphere_ray.commands.measure import measure

        measure(models, options, tell, tables())


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
    with outcomes(debug=context.obj, hint="run the same command again"):
        if target is ExportFormat.HF:
            _export_hf(run_dir, output, iteration, push)
            return
        from sphere_ray.commands.export import export_trl

        if push is not None:
            raise ConfigError("--push needs --format hf; add it, or leave --push out")
        pairs = export_trl(run_dir, output=output, iteration=iteration)
        out.print(f"{pairs.num_pairs} pairs in {pairs.jsonl} and {pairs.parquet}")


def _export_hf(run_dir: str, output: str | None, iteration: int | None, push: str | None) -> None:
    from sphere_ray.commands.export_hf import export_hf

    if iteration is not None:
        raise ConfigError("--format hf exports the final model; leave --iteration out")
    written = export_hf(run_dir, output=output, push=push)
    out.print(f"the model in {written.model}, {written.num_pairs} pairs in {written.dataset}")
    for name in written.pushed:
        out.print(f"pushed to {name}")


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
    with outcomes(debug=context.obj, hint="run the same command again to continue"):
        from sphere_ray.commands import train_prm as command
        from sphere_ray.tables.run import print_trained_reward

        path, summary = command.train_prm(run_dir, output, overrides or [])
        print_trained_reward(summary, tables())
        if path is not None:
            out.print(path)


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
    with outcomes(debug=context.obj, hint="run the same command again to continue"):
        from sphere_ray.commands import tune as command
        from sphere_ray.tables.run import print_tuning

        summary = command.tune(
            run_dir, grid or [], overrides or [], iteration=iteration, num_trials=trials
        )
        print_tuning(summary, tables())


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
    with outcomes(debug=context.obj, hint="run the same command again to continue"):
        from sphere_ray.commands import score_report as command
        from sphere_ray.tables.run import print_score_report

        report = command.score_report(
            run_dir,
            problems=problems,
            completions=completions,
            output=output,
            overrides=overrides or [],
        )
        print_score_report(report, tables())


@app.command()
def proof(
    context: typer.Context,
    spec: Annotated[
        Path, typer.Argument(metavar="SPEC", help="YAML file; see jobs/configs/proof.yaml.")
    ],
    overrides: Overrides = None,
) -> None:
    """Compare variants of a configuration over seeds; repeated, it continues."""
    with outcomes(debug=context.obj, hint="run the same command again to continue"):
        from sphere_ray.commands.proof import prove
        from sphere_ray.tables.proof import print_proof

        target, found = prove(spec, overrides or [])
        print_proof(found, tables())
        out.print(f"results are in {target}/proof.json and {target}/proof.png")


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
    with outcomes(debug=context.obj, hint="every decision is in the file"):
        from sphere_ray.audit.server import serve

        serve(run_dir, port=port, user=user, file=file, say=out.print)


add_to(app)


if __name__ == "__main__":
    main()
