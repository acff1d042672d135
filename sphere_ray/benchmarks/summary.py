"""What models came to on sets of problems, with where each set came from and how large it is."""

from collections.abc import Mapping, Sequence

from sphere_ray.benchmarks.named import BENCHMARKS, SCHEME, names_of
from sphere_ray.benchmarks.sources import resolve
from sphere_ray.config import RunSettings
from sphere_ray.records import EvaluationRow
from sphere_ray.redaction import redact
from sphere_ray.reporting.benchmark_summary import BenchmarkSummary, benchmark_summary

Answers = Mapping[str, Mapping[str, Sequence[EvaluationRow]]]
"""By set and by model, the base first."""


def summaries(
    settings: RunSettings, answers: Answers, sources: Mapping[str, str] | None = None
) -> dict[str, BenchmarkSummary]:
    """The figures of every set: benchmarks of `settings`, or other `sources` by name."""
    references = names_of(settings.evaluation.benchmarks)
    directory = settings.evaluation.benchmark_dir
    uris = {name: f"{SCHEME}{reference}" for name, reference in references.items()}
    uris |= sources or {}
    return {
        name: benchmark_summary(
            models,
            source=redact(resolve(uris[name], directory)),
            of=BENCHMARKS[name].num_problems if name in references else None,
            seed=settings.seed,
        )
        for name, models in answers.items()
    }
