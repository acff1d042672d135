"""Options of commands that have many, as one object: `sphere evaluate`, `compare` and `plan`."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sphere_ray.errors import ConfigError

if TYPE_CHECKING:
    from sphere_ray.config import RunSettings


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is asked of the models, and who else is asked."""

    problems: Annotated[
        str | None, typer.Option(help="URI of problems, e.g. file:test.jsonl.", metavar="URI")
    ] = None
    benchmarks: Annotated[
        str | None, typer.Option(help="Named benchmarks, e.g. gsm8k,math500.", metavar="NAME,NAME")
    ] = None
    benchmark_dir: Annotated[
        str | None, typer.Option(help="Read benchmarks from files here, e.g. DIR/gsm8k.jsonl.")
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(help="Settings; default those of the run the model lies in, else CPU ones."),
    ] = None
    limit: Annotated[
        int, typer.Option(min=0, help="Use the first N problems of a set (0: all).")
    ] = 0
    samples: Annotated[
        int | None,
        typer.Option(min=0, help="Also sample K answers a problem; default 0, or the benchmark's."),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer; default the settings', or the benchmark's."),
    ] = None
    endpoint: Annotated[
        str | None,
        typer.Option(help="Ask an OpenAI-compatible endpoint the same.", metavar="URL"),
    ] = None
    endpoint_model: Annotated[
        str | None, typer.Option(help="Name of the model at the endpoint.")
    ] = None
    endpoint_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds its key.", metavar="NAME")
    ] = None

    @property
    def references(self) -> tuple[str, ...]:
        """The benchmarks asked for."""
        return tuple(filter(None, map(str.strip, (self.benchmarks or "").split(","))))

    def by_set(self, models: Sequence[str]) -> bool:
        """Whether figures go by set; else those of one source go by family."""
        return bool(self.references or self.endpoint or (len(models) > 1 and self.samples))

    def applied_to(self, settings: "RunSettings") -> "RunSettings":
        """The settings, with these benchmarks and this length in the place of theirs."""
        chosen = {
            "benchmarks": self.references,
            "benchmark_dir": self.benchmark_dir or settings.evaluation.benchmark_dir,
            "max_tokens": self.max_tokens or settings.evaluation.max_tokens,
        }
        evaluation = settings.evaluation.model_copy(update=chosen)
        return settings.model_copy(update={"evaluation": evaluation})

    def check(self, models: Sequence[str]) -> None:
        """Refuse options that do not go together.

        Raises:
            ConfigError: says which, and what to do.
        """
        named = bool(self.references) or (self.problems or "").startswith("benchmark:")
        for wrong, told in (
            (
                self.problems is None and not self.references,
                "name what to ask: --problems URI, or --benchmarks gsm8k,math500",
            ),
            (
                self.benchmark_dir is not None and not named,
                "--benchmark-dir has no effect without --benchmarks; name some, or leave it out",
            ),
            (
                (self.endpoint is None) != (self.endpoint_model is None),
                "--endpoint URL and --endpoint-model NAME belong together; give both or none",
            ),
            (
                self.endpoint_key_env is not None and self.endpoint is None,
                "--endpoint-key-env has no effect without --endpoint; leave it out",
            ),
            (
                not (self.endpoint or "http://").startswith(("http://", "https://")),
                f"--endpoint {self.endpoint} is no address; it begins with http:// or https://",
            ),
            (
                not models and self.endpoint is None,
                "name whom to ask: a MODEL, or --endpoint URL with --endpoint-model NAME",
            ),
            (
                len(set(models)) < len(models),
                f"{', '.join(models)} are one model; name two that differ",
            ),
        ):
            if wrong:
                raise ConfigError(told)


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Where a configuration would run, and what its plan is reckoned from."""

    on: Annotated[
        str | None,
        typer.Option(
            metavar="NODES",
            help="Nodes: [COUNT*]GPUSxGPU, e.g. 8x80GB, 8*8xH100, 4*16cpu; several with commas. "
            "Default: the cluster of ray.address, or this machine.",
        ),
    ] = None
    like: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Scale what this finished run counted and took."),
    ] = None
    chains: Annotated[
        int | None, typer.Option(min=1, help="Plan for so many chains, whatever the problems.")
    ] = None
    price: Annotated[
        float | None, typer.Option(min=0, help="Price of a GPU for an hour; gives the cost.")
    ] = None
    model_config: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=FILE", help="config.json of a model that is not at hand."),
    ] = None


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Show Typer the fields of the last parameter, a dataclass, as options of the command."""
    *own, last = inspect.signature(command, eval_str=True).parameters.values()
    shown = inspect.signature(last.annotation, eval_str=True).parameters

    @functools.wraps(command)
    def called(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in shown}
        command(**given, **{last.name: last.annotation(**chosen)})

    # Typer asks `inspect.signature`, which looks here first.
    vars(called)["__signature__"] = inspect.Signature([*own, *shown.values()])
    return called
