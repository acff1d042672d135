"""`sphere evaluate` and `sphere compare`: which figures the options ask for, and their tables."""

from collections.abc import Sequence

from rich.console import Console

from sphere_ray.commands import benchmarks
from sphere_ray.commands.evaluate_model import (
    Tell,
    compare_models,
    evaluate_model,
    evaluation_settings,
    require_models,
)
from sphere_ray.commands.options import EvaluationOptions
from sphere_ray.config import load_config
from sphere_ray.config.problems import SplitSettings
from sphere_ray.tables.benchmarks import print_benchmarks
from sphere_ray.tables.run import print_comparison, print_evaluation


def measure(
    models: Sequence[str], options: EvaluationOptions, tell: Tell, console: Console
) -> None:
    """Measure models as the options say and print the tables; `tell` hears what was read.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    if options.config is None:
        chosen = evaluation_settings(models[-1] if models else "")
    else:
        chosen = load_config(options.config)
    settings = options.applied_to(chosen)
    if options.problems is None or options.by_set(models):
        figures, told = benchmarks.measure(settings, models, options, tell)
        print_benchmarks(figures, console, told)
        return
    require_models(settings, models)
    split = SplitSettings(source=options.problems, limit=options.limit)
    if len(models) == 1:
        found = evaluate_model(settings, models[0], split, options.samples or 0, tell)
        print_evaluation(found, console)
    else:
        print_comparison(compare_models(settings, models, split, tell), console)
