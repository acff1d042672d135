"""The numbers of a run as Ray metrics, which Prometheus finds as `ray_sphere_*`.

The driver exports them all: a metric ends with the process that exports it, and the driver lives
as long as the run. The tables below are the whole list.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from ray.util.metrics import Counter as RayCounter
from ray.util.metrics import Gauge

from sphere_ray.records import Verdict
from sphere_ray.reporting.progress import STEP, PhaseState, Snapshot, details
from sphere_ray.reward.tallies import ANSWERS, REWARD, REWARD_BUCKETS

TAGS = ("run", "iteration", "phase")
"""What every metric is tagged with; `iteration` is empty outside of one."""

COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "problems": ("Problems done.", ()),
    "chains": ("Chains made.", ()),
    "tokens": ("Tokens decoded.", ()),
    "pairs": ("Preference pairs made.", ()),
    "errors": ("Problems that failed.", ()),
    "verdicts": ("Chains, by the stage that made them and the verdict.", ("stage", "verdict")),
    ANSWERS: ("Answers in an evaluation, by verdict.", ("verdict",)),
    "pairs_kept": ("Preference pairs, by the stage that made them.", ("stage",)),
    "pairs_dropped": ("Preference pairs that a gate refused, by the reason.", ("reason",)),
    "reward_bucket": ("Candidate steps with a reward of at most `le`.", ("le",)),
}
"""Counters `sphere_NAME_total`: what each counts, and its further tags.

Rewards are a histogram as Prometheus keeps it, but counted here: Ray's own takes one value a call.
"""

GAUGES: Mapping[str, str] = {
    "phase": "1 while the phase runs, else 0.",
    "phase_done": "Units of the phase that are done.",
    "phase_total": "Units of the phase.",
    "tokens_per_second": "Decoded tokens a second, mean over the phase.",
    "evaluation_accuracy": "Share of the greedy and sampled answers so far that is right.",
    "loss": "Loss of the last optimizer step.",
    "accuracy": "Share of the step's pairs whose chosen side has the higher implicit reward.",
    "margin": "Mean margin of the implicit rewards of the step's pairs.",
    "grad_norm": "Norm of the gradient of the last optimizer step.",
    "learning_rate": "Learning rate of the last optimizer step.",
    "chosen_shift": "Nats a token of the chosen sides above the reference, mean over the step.",
}
"""Gauges `sphere_NAME`."""

POOL_GAUGES: Mapping[str, str] = {
    "running": "Sequences that the engines of the pool decode.",
    "waiting": "Sequences that wait in the engines of the pool.",
    "kv_cache_use": "Share of the KV cache in use, mean over the replicas.",
    "prefix_hits": "Share of the prompt tokens found in the prefix cache since the last look.",
    "idle": "Share of the time without a request since the last look.",
    "tokens_per_second": "Decoded tokens a second since the last look.",
}
"""Gauges `sphere_pool_NAME`, with the further tag `pool`."""

_TRAINING = ("grad_norm", "learning_rate", "chosen_shift")


def series() -> set[str]:
    """Every name under which Prometheus finds a metric of the run."""
    return {
        *(f"ray_sphere_{name}_total" for name in COUNTERS),
        *(f"ray_sphere_{name}" for name in GAUGES),
        *(f"ray_sphere_pool_{name}" for name in POOL_GAUGES),
    }


class RunMetrics:
    """Exports the snapshots of the board. Counters begin at 0 in each session."""

    def __init__(
        self,
        run: str,
        *,
        counter: Callable[..., RayCounter] = RayCounter,
        gauge: Callable[..., Gauge] = Gauge,
    ) -> None:
        """Register the metrics with Ray."""
        self._run = run
        self._counters = {
            name: counter(f"sphere_{name}_total", text, (*TAGS, *further))
            for name, (text, further) in COUNTERS.items()
        }
        self._gauges = {name: gauge(f"sphere_{name}", text, TAGS) for name, text in GAUGES.items()}
        self._pool_gauges = {
            name: gauge(f"sphere_pool_{name}", text, (*TAGS, "pool"))
            for name, text in POOL_GAUGES.items()
        }
        self._counted: Counter[tuple[str, ...]] = Counter()

    def on_progress(self, snapshot: Snapshot) -> None:
        """Listen to a ProgressBoard."""
        iteration = "" if snapshot.iteration is None else str(snapshot.iteration)
        tags = {"run": self._run, "iteration": iteration, "phase": snapshot.name}
        for name, value in _gauges(snapshot).items():
            self._gauges[name].set(value, tags)
        for path, value in details(snapshot, "pool").items():
            pool, _, name = path.rpartition("/")
            self._pool_gauges[name].set(value, {**tags, "pool": pool})
        for name, further, total in _counts(snapshot):
            grown = self._grown((name, *further.values(), *tags.values()), total)
            if grown:
                self._counters[name].inc(grown, {**tags, **further})

    def _grown(self, key: tuple[str, ...], total: int) -> int:
        """By how much; Ray takes increments, and snapshots hold totals of a phase."""
        grown = max(total - self._counted[key], 0)
        self._counted[key] += grown
        return grown


def _gauges(snapshot: Snapshot) -> dict[str, float]:
    running = snapshot.state in (PhaseState.STARTED, PhaseState.RUNNING)
    found = {
        "phase": float(running),
        "phase_done": snapshot.done,
        "phase_total": snapshot.total,
    }
    shown = ("loss", "accuracy", "margin")
    found |= {name: snapshot.counts[name] for name in shown if name in snapshot.counts}
    step = details(snapshot, STEP)
    found |= {name: step[name] for name in _TRAINING if name in step}
    if snapshot.tokens_per_second is not None:
        found["tokens_per_second"] = snapshot.tokens_per_second
    if answers := details(snapshot, ANSWERS):
        found["evaluation_accuracy"] = answers.get(Verdict.CORRECT, 0) / sum(answers.values())
    return found


def _counts(snapshot: Snapshot) -> Iterator[tuple[str, dict[str, str], int]]:
    """Counters by name, further tags and total."""
    totals: dict[str, Any] = {
        snapshot.unit: snapshot.done - snapshot.first,
        **snapshot.counts,
    }
    for name, (_, further) in COUNTERS.items():
        if not further:
            yield name, {}, int(totals.get(name, 0))
            continue
        found = _below_bounds(snapshot) if name == "reward_bucket" else details(snapshot, name)
        for path, count in found.items():
            yield name, dict(zip(further, path.split("/"), strict=True)), int(count)


def _below_bounds(snapshot: Snapshot) -> dict[str, float]:
    """How many rewards lie in the buckets up to each bound; nothing before the first reward."""
    counts = details(snapshot, REWARD)
    if not counts:
        return {}
    each = [counts.get(str(bucket), 0) for bucket in range(REWARD_BUCKETS)]
    bounds = [str((bucket + 1) / REWARD_BUCKETS) for bucket in range(REWARD_BUCKETS)]
    return {**dict(zip(bounds, accumulate(each), strict=True)), "+Inf": sum(each)}
