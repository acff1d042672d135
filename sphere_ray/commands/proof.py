"""Does the method work, and which part of it? Variants of one configuration, run over seeds.

Each run is an ordinary run directory, RUN_DIR/VARIANT/seed-N. What is made is found again, so the
command continues where it was stopped.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from sphere_ray import storage
from sphere_ray.commands.evaluate_model import answers, read_problems
from sphere_ray.commands.run import run as run_loop
from sphere_ray.config import RunSettings, load_config
from sphere_ray.config.loading import load
from sphere_ray.config.proof import ProofSettings
from sphere_ray.errors import ConfigError
from sphere_ray.problems.sources import local_file
from sphere_ray.records import EvaluationRow, Problem
from sphere_ray.reporting.proof_summary import (
    Paired,
    ProofRun,
    ProofSummary,
    comparison,
    cost_of,
    paired,
    variant_summary,
)
from sphere_ray.reporting.summary import RunSummary
from sphere_ray.runs.directory import Run
from sphere_ray.tables.proof_plot import draw_proof

TOKENS, SECONDS = "{tokens}", "{seconds}"
FEWEST_SAMPLES = 2
_OURS = ("name", "run_dir", "seed")
_GUARDS = "_guards"

Runner = Callable[[RunSettings, str | None], RunSummary]
Answerer = Callable[
    [RunSettings, str, Mapping[str, Sequence[Problem]], int, str], dict[str, list[EvaluationRow]]
]


def prove(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    run: Runner = run_loop,
    answer: Answerer = answers,
) -> tuple[str, ProofSummary]:
    """Run all variants over all seeds; returns the directory with proof.json and proof.png.

    `run` makes a run, and `answer` answers the guards.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    proof = _Proof(path=path, spec=load(ProofSettings, path, overrides), run=run)
    proof.check()
    guards, left_out = proof.guards()
    for seed in proof.spec.seeds:
        proof.run_variants(seed)
    return proof.target, proof.conclude(_guard_changes(proof, guards, answer), left_out)


@dataclass(kw_only=True)
class _Proof:
    """A specification, the file it came from, and the runs so far, by variant and then by seed."""

    path: Path
    spec: ProofSettings
    run: Runner
    done: dict[str, list[ProofRun]] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Where everything lies."""
        return storage.resolve(self.spec.run_dir)

    @property
    def first(self) -> str:
        """The variant whose rollouts are the bank."""
        return next(iter(self.spec.variants))

    def directory(self, variant: str, seed: int) -> str:
        """The run directory of a variant and a seed."""
        return f"{self.target}/{variant}/seed-{seed}"

    def check(self) -> None:
        """Load every configuration before anything runs.

        Raises:
            ConfigError: a variant cannot be used.
        """
        some = dict.fromkeys((TOKENS, SECONDS), FEWEST_SAMPLES)
        bank = self.settings(self.first, self.spec.seeds[0], {})
        for variant, overrides in self.spec.variants.items():
            ours = [each for each in overrides if each.partition("=")[0].strip() in _OURS]
            if ours:
                raise ConfigError(
                    f"{self.path}: variants.{variant}: {ours[0]} has no effect, because each run "
                    "gets its own name, run_dir and seed; remove it"
                )
            settings = self.settings(variant, self.spec.seeds[0], some)
            for group in ("problems.test", "evaluation"):
                if _part(settings, group) != _part(bank, group):
                    raise ConfigError(
                        f"{self.path}: variants.{variant} changes {group}, so it cannot be "
                        f"compared with {self.first}; change it in overrides, for all variants"
                    )

    def settings(self, variant: str, seed: int, samples: Mapping[str, int]) -> RunSettings:
        """The settings of a run; `samples` are the numbers that stand for placeholders.

        Raises:
            ConfigError: they cannot be used.
        """
        own = (
            f"name={self.spec.name}-{variant}-{seed}",
            f"run_dir={self.directory(variant, seed)}",
            f"seed={seed}",
        )
        changes = (*self.spec.overrides, *self.overrides(variant, samples))
        try:
            return load_config(self.path.parent / self.spec.config, (*changes, *own))
        except ConfigError as error:
            raise ConfigError(f"{self.path}: variants.{variant}: {error}") from None

    def overrides(self, variant: str, samples: Mapping[str, int]) -> list[str]:
        """The overrides of a variant with numbers in the place of placeholders."""
        found = list(self.spec.variants[variant])
        for placeholder, number in samples.items():
            found = [override.replace(placeholder, str(number)) for override in found]
        left = [each for each in found if TOKENS in each or SECONDS in each]
        if left:
            raise ConfigError(
                f"{self.path}: variants.{variant}: {left[0]} has a placeholder, but the first "
                "variant makes the rollouts that it is derived from; give a number"
            )
        return found

    def run_variants(self, seed: int) -> None:
        """Run all variants with a seed, the first one for all of its rollouts."""
        origin, samples = None, dict[str, int]()
        for variant in self.spec.variants:
            settings = self.settings(variant, seed, samples)
            found, summary = self._run(settings, self.overrides(variant, samples), origin)
            self.done.setdefault(variant, []).append(found)
            if origin is None:
                origin = self.directory(variant, seed)
                samples = equal_samples(Run.open(origin), summary)

    def _run(
        self, settings: RunSettings, overrides: Sequence[str], origin: str | None
    ) -> tuple[ProofRun, RunSummary]:
        """Make a run iteration by iteration, so that there are test answers after each."""
        after = []
        for iterations in range(1, settings.iterations + 1):
            part = settings.model_copy(update={"iterations": iterations})
            summary = self.run(part, origin)
            base, *final = _test_answers(settings.run_dir)
            after.append(final[-1] if final else base)
        last = (settings.method.pairs.stages or settings.method.taken_stages)[-1]
        costs = [cost_of(item, last) for item in summary["iterations"]]
        return ProofRun(overrides=overrides, base=base, after=after, costs=costs), summary

    def guards(self) -> tuple[dict[str, tuple[Problem, ...]], list[str]]:
        """The problems of each guard, and a sentence about each whose file is missing.

        Raises:
            ProblemSourceError: a source that is there cannot be used.
        """
        settings = self.settings(self.first, self.spec.seeds[0], {})
        found, left_out = {}, []
        for name, split in self.spec.guards.items():
            if _is_missing(split.source):
                left_out.append(f"{name} is left out: {split.source} is not there")
            else:
                found[name] = read_problems(settings, split)
        return found, left_out

    def conclude(self, guards: dict[str, Paired], left_out: list[str]) -> ProofSummary:
        """Sum everything up in proof.json and proof.png."""
        unseen = _unseen_families(Run.open(self.directory(self.first, self.spec.seeds[0])))
        bank, *others = self.done
        proof: ProofSummary = {
            "name": self.spec.name,
            "seeds": list(self.spec.seeds),
            "unseen_families": sorted(unseen),
            "variants": [variant_summary(name, runs, unseen) for name, runs in self.done.items()],
            "comparisons": [comparison(self.done[bank], self.done[name], name) for name in others],
            "guards": guards,
            "left_out": left_out,
        }
        storage.write_json(proof, f"{self.target}/proof.json")
        draw_proof(proof, f"{self.target}/proof.png")
        return proof


def equal_samples(bank: Run, summary: RunSummary) -> dict[str, int]:
    """Numbers of samples a problem that cost as much as the first rollouts of `bank`.

    A sample is taken to be as long as the base model's mean greedy answer to a validation problem,
    and to be decoded as fast as the answers of that evaluation.
    """
    rollout = summary["iterations"][0]["rollout"]
    steps = [step for step in bank.steps if step.kind == "evaluation" and step.iteration is None]
    rows = [row for step in steps for row in step.rows(EvaluationRow) if row.error is None]
    length = max(fmean(row.num_tokens for row in rows), 1.0)
    uses = [use for step in steps for use in step.manifest.report.pools]
    seconds = sum(use.seconds for use in uses)
    rate = sum(use.generated_tokens for use in uses) / seconds if seconds else 0.0
    tokens = {TOKENS: rollout["tokens"], SECONDS: rollout["seconds"] * rate}
    return {
        name: max(round(number / (rollout["problems"] * length)), FEWEST_SAMPLES)
        for name, number in tokens.items()
    }


def _part(settings: RunSettings, group: str) -> object:
    found: object = settings
    for name in group.split("."):
        found = getattr(found, name)
    return found


def _test_answers(run_dir: str) -> list[list[EvaluationRow]]:
    """The test answers of the base model and, if another was promoted, of the last one."""
    steps = [step for step in Run.open(run_dir).steps if step.kind == "test"]
    return [list(step.rows(EvaluationRow)) for step in steps]


def _unseen_families(run: Run) -> Set[str]:
    """Families of test problems that no training problem has."""
    problems = run.step("problems")
    assert problems is not None
    train, test = (
        {problem.family for problem in problems.rows(Problem, below=split) if problem.family}
        for split in ("train", "test")
    )
    return test - train


def _is_missing(source: str) -> bool:
    """Whether a source is a file of this machine that is not there."""
    return source.startswith("file:") and "://" not in source and local_file(source) is None


def _guard_changes(
    proof: _Proof, guards: Mapping[str, Sequence[Problem]], answer: Answerer
) -> dict[str, Paired]:
    """How the last model of the first variant does on the guards, against the base model."""
    if not guards:
        return {}
    seeds = proof.spec.seeds
    settings = proof.settings(proof.first, seeds[0], {})
    place = f"{proof.target}/{_GUARDS}"

    def asked(model: str) -> dict[str, list[EvaluationRow]]:
        return answer(settings, model, guards, 0, place)

    base = asked(settings.engines.policy.path)
    final = [asked(_last_model(proof.directory(proof.first, seed))) for seed in seeds]
    return {
        name: paired([base[name]] * len(seeds), [each[name] for each in final]) for name in guards
    }


def _last_model(run_dir: str) -> str:
    """Where the policy lies that answered the test problems last."""
    run = Run.open(run_dir)
    last = [step for step in run.steps if step.kind == "test"][-1]
    models = {model.fingerprint: model.path for model in run.models}
    return models.get(last.manifest.inputs["model"], run.settings.engines.policy.path)
