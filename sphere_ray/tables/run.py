"""summary.json as readable tables for the end of a run; figures only, no judgement."""

from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.table import Table

from sphere_ray.method.audit import AuditedPairs
from sphere_ray.records import StageName
from sphere_ray.reporting.audit_summary import Agreement, AuditSummary
from sphere_ray.reporting.policy_summary import CandidateSummary, WriterSummary
from sphere_ray.reporting.progress import clock_time
from sphere_ray.reporting.reward_summary import RewardSummary, ScoreReport, TrainedRewardSummary
from sphere_ray.reporting.rollout_summary import PoolSummary, RolloutSummary
from sphere_ray.reporting.summary import (
    EvaluationSummary,
    HeldOutSummary,
    IterationSummary,
    RunSummary,
    Score,
)
from sphere_ray.reporting.tune_summary import TunedSummary, TuneSummary
from sphere_ray.reward.process import Estimate, Metric, ProcessComparison, ProcessSummary
from sphere_ray.tables.benchmarks import print_benchmarks
from sphere_ray.tables.cells import UNKNOWN, percent, plain_table, points

_PROCESS_ROWS: Mapping[Metric, str] = {
    "step_validity": "valid steps %",
    "flawed_right": "right with a broken step %",
    "first_error": "first broken step",
    "recovery": "right after a broken step %",
    "propagation": "broken steps after one %",
}


def print_summary(summary: RunSummary, console: Console) -> None:
    """Print the tables of a run: each iteration, the test by family, the time."""
    audit = summary["audit"]
    parts: list[RenderableType] = [_iteration(item, audit) for item in summary["iterations"]]
    test = summary["test"]
    console.print(Group(*parts, _held_out(test), _process(test["process"])), markup=False)
    print_benchmarks(summary["benchmarks"], console)
    console.print(_time(summary["seconds_by_phase"]), markup=False)


def print_comparison(summary: HeldOutSummary, console: Console) -> None:
    """Print the tables of a base and another model on the same problems."""
    console.print(Group(_held_out(summary), _process(summary["process"])), markup=False)


def print_evaluation(summary: EvaluationSummary, console: Console) -> None:
    """Print the table of one evaluated model."""
    table = plain_table(
        "Evaluation", "family", "n", "pass@1 %", "95% interval", "mean@k %", "maj@k %", "pass@k %"
    )
    for family, score in summary["by_family"].items():
        table.add_row(family, str(score["n"]), *_score_cells(score))
    table.add_section()
    table.add_row("all", str(summary["n"]), *_score_cells(summary))
    table.caption = _not_answered(summary["failed"])
    console.print(table, markup=False)


def print_trained_reward(summary: TrainedRewardSummary, console: Console) -> None:
    """Print the figures of a trained reward model."""
    console.print(f"trained reward model: {_trained_reward(summary)}")


def print_score_report(report: ScoreReport, console: Console) -> None:
    """Print the figures of reward sources side by side."""
    table = plain_table(
        f"Reward sources, {report['problems']:,} problems, {report['completions']} completions",
        *("source", "steps", "AUC", "shape alone", "ECE", "siblings", "first error", "inversions"),
        *("decoded/1000", "prefilled/1000"),
    )
    for name, source in report["sources"].items():
        figures, cost = source["quality"], source["cost_per_1000"]
        tokens = (
            (UNKNOWN, UNKNOWN)
            if cost is None
            else (f"{cost['decoded_tokens']:,.0f}", f"{cost['prefilled_tokens']:,.0f}")
        )
        table.add_row(
            name,
            f"{figures['steps']:,}",
            _figure(figures["auc"]),
            _figure(figures["baseline_auc"]),
            f"{figures['ece']:.3f}",
            _figure(figures["siblings"]),
            _figure(figures["first_error"]),
            _figure(source["inversions"]),
            *tokens,
        )
    pairs = (f"{names} {_figure(value)}" for names, value in report["agreement"].items())
    table.caption = f"agreement: {', '.join(pairs) or 'one source only'}"
    console.print(table, markup=False)


def print_tuning(summary: TuneSummary, console: Console) -> None:
    """Print the candidates of `sphere tune`, the chosen one, and what it all cost."""
    table = plain_table(
        f"Training, {summary['pairs']:,} pairs of iteration {summary['iteration']}, shares in %",
        *("training.", "epochs", "pairs right", "n", "score", "+/- policy (SE)"),
        *("+/- default (95%)", "time"),
    )
    table.columns[0].no_wrap = True
    for found in summary["candidates"]:
        names = (setting.removeprefix("training.") for setting in found["settings"])
        name = "\n".join(names) or "default"
        if found["score"] is None or found["pair_accuracy"] is None:
            figures = ["collapsed", *(UNKNOWN,) * 4]
        else:
            figures = [
                percent(found["pair_accuracy"]),
                f"{found['n']:,}",
                percent(found["score"]),
                *_gain_cells(found),
            ]
        table.add_row(name, str(found["epochs"]), *figures, clock_time(found["seconds"]))
    table.caption = (
        f"{summary['trainings']} trainings and {summary['evaluations']} evaluations beyond the "
        f"run's own: {clock_time(summary['seconds'])}\n{summary['warning']}"
    )
    chosen = {None: "none, for trainings collapsed", "": "the run's own settings"}
    arguments = summary["arguments"]
    console.print(table, markup=False)
    console.print(f"chosen: {chosen.get(arguments, arguments)}", soft_wrap=True, markup=False)


def _gain_cells(found: TunedSummary) -> tuple[str, str]:
    policy, default = found["over_policy"], found["over_default"]
    over_policy = over_default = UNKNOWN
    if policy is not None:
        over_policy = f"{points(policy['gain'])} ({percent(policy['standard_error'])})"
    if default is not None:
        low, high = default["ci95"]
        over_default = f"{points(default['gain'])} ({points(low)} to {points(high)})"
    return over_policy, over_default


def _iteration(item: IterationSummary, audit: AuditSummary | None) -> Table:
    rollout, pairs, training = item["rollout"], item["pairs"], item["training"]
    rate = rollout["tokens"] / rollout["seconds"] if rollout["seconds"] else 0.0
    spent = _listed({name: stage["tokens"] for name, stage in rollout["by_stage"].items()})
    stages = ", ".join(f"{name} {stage['problems']}" for name, stage in rollout["by_stage"].items())
    rows = {
        "problems": f"{rollout['problems']:,} (entered: {stages})",
        "chains": (
            f"{rollout['chains']:,} ({rollout['chains_per_second']:,.1f} a second), "
            f"{_figure(item['reward']['distinct_candidates'])} distinct candidates a step"
        ),
        "tokens": f"{rollout['tokens']:,} ({rate:,.0f} tokens/s; {spent})",
        "engines": "; ".join(_pool(name, use) for name, use in rollout["pools"].items()) or "-",
        "routes": _listed(rollout["routes"]),
        "flips": (
            f"{rollout['wrong_to_correct']} wrong to correct{_tried(rollout)}, "
            f"{rollout['correct_to_wrong']} correct to wrong, "
            f"{rollout['prm_inversions']} inversions of the scorer"
        ),
        "reward": _reward(item["reward"]),
        "steps": _steps(item["reward"]["process"]),
        "pairs": (
            f"{pairs['total']:,} ({_listed(pairs['by_stage'])}), "
            f"{pairs['from_completions']:,} of them from completions, "
            f"{sum(pairs['per_hour'].values()):,.0f} an hour, "
            f"{pairs['per_1000_tokens']:.2f} per 1,000 tokens"
        ),
        "dropped": _listed(pairs["dropped"]),
        **({} if pairs["audit"] is None else {"audit": _audit(pairs["audit"], audit)}),
        "written by": "; ".join(map(_writer, item["writers"])) or "-",
        "training": "none"
        if training is None
        else (
            f"{training['steps']} steps, loss {training['loss_first']:.4f} to "
            f"{training['loss_last']:.4f}, accuracy {percent(training['reward_accuracy'])}%, "
            f"{percent(training['update_survival'])}% of the update kept, "
            f"{training['workers']} workers, ZeRO-{training['zero_stage']}, "
            f"{training['tokens_per_second']:,.0f} tokens/s, "
            f"padding {percent(training['padding'])}%"
        ),
        "validation": _validation(item),
        **{found["candidate"]: _candidate(found) for found in item["candidates"]},
        "decision": _decision(item),
    }
    table = Table(title=f"Iteration {item['iteration']}", title_justify="left", show_header=False)
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _writer(found: WriterSummary) -> str:
    """Who wrote pairs that were trained on, and how many iterations behind it was."""
    behind = f", {found['lag']} iteration behind" if found["lag"] else ""
    return (
        f"{found['pairs']:,} of iteration {found['iteration']} by policy {found['policy'][:8]} "
        f"(iteration {found['policy_iteration']}{behind})"
    )


def _audit(honoured: AuditedPairs, audit: AuditSummary | None) -> str:
    """What people's decisions changed in the iteration, and who agrees with all of them."""
    text = (
        f"{honoured['accepted']:,} accepted pairs are kept, {honoured['rejected']:,} rejected ones "
        f"dropped, {honoured['corrected']:,} verdicts corrected"
    )
    if audit is None:
        return text
    return f"{text}; {_agreed('grader', audit['grader'])}, {_agreed('scorer', audit['scorer'])}"


def _agreed(who: str, found: Agreement) -> str:
    if found["share"] is None or found["ci95"] is None:
        return f"{who}: nothing to compare"
    low, high = map(percent, found["ci95"])
    return f"{who} agrees with {percent(found['share'])}% of {found['n']:,} ({low} to {high})"


def _tried(rollout: RolloutSummary) -> str:
    """What self-correction had to repair, and what it cost."""
    stage = rollout["by_stage"].get(StageName.SELF_CORRECTION)
    return f" (of {stage['problems']:,} for {stage['tokens']:,} tokens)" if stage else ""


def _pool(name: str, use: PoolSummary) -> str:
    hits = "" if use["prefix_hits"] is None else f", {percent(use['prefix_hits'])}% prefix hits"
    return f"{name} {use['tokens_per_second']:,.0f} tokens/s{hits}, idle {percent(use['idle'])}%"


def _reward(reward: RewardSummary) -> str:
    text = f"{reward['source']}, {reward['steps']:,} steps scored"
    if reward["agreement"] is not None:
        text += f", {reward['audited']:,} audited (agreement {reward['agreement']:.2f})"
    trained = reward["trained"]
    return text if trained is None else f"{text}; trained model: {_trained_reward(trained)}"


def _steps(found: ProcessSummary) -> str:
    """The steps of Sol_max by their rewards."""
    if not found["judged"]:
        return "none scored"
    figures = (f"{label} {_estimate(found[name], label)}" for name, label in _PROCESS_ROWS.items())
    return f"of {found['judged']:,} Sol_max by their rewards: {', '.join(figures)}"


def _trained_reward(trained: TrainedRewardSummary) -> str:
    decision = "takes over" if trained["refusal"] is None else f"refused: {trained['refusal']}"
    figures = trained["held_out"]
    if figures is None:
        return decision
    return (
        f"{trained['labels']:,} labels, held out: AUC {_figure(figures['auc'])} "
        f"(shape alone {_figure(figures['baseline_auc'])}), ECE {figures['ece']:.3f}, "
        f"siblings {_figure(figures['siblings'])}, first error {_figure(figures['first_error'])}; "
        f"{decision}"
    )


def _figure(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def _validation(item: IterationSummary) -> str:
    evaluation = item["evaluation"]
    if evaluation is None:
        return "none"
    before, after = (_interval(evaluation[side]) for side in ("before", "after"))
    failed = _not_answered(evaluation["failed"], ", ")
    return f"pass@1 {before} to {after} on {evaluation['n']:,} problems{failed}"


def _decision(item: IterationSummary) -> str:
    if item["promoted"]:
        return "promoted"
    # The candidates' rows give their reasons.
    return "the policy stays" if item["candidates"] else f"the policy stays: {item['refusal']}"


def _candidate(found: CandidateSummary) -> str:
    decision = "promoted" if found["promoted"] else "refused"
    text = f"{decision}: {found['reason']}"
    if found["gain"] is None or found["ci95"] is None:
        return text
    low, high = found["ci95"]
    return (
        f"{points(found['gain'])} (95%: {points(low)} to {points(high)}) on {found['n']:,} "
        f"problems ({found['fresh']:,} fresh), look {found['looks']}, {text}"
    )


def _held_out(test: HeldOutSummary) -> Table:
    base, final = test["base"], test["final"]
    table = plain_table(
        f"Test, {test['n']:,} problems, pass@1 %", "family", "n", "base", "final", "+/-"
    )
    for family, first in base["by_family"].items():
        last = final["by_family"][family]
        gain = last["pass@1"] - first["pass@1"]
        table.add_row(family, str(first["n"]), _interval(first), _interval(last), points(gain))
    table.add_section()
    first_mean, last_mean = base["macro_average"], final["macro_average"]
    if first_mean is not None and last_mean is not None:
        means = (percent(first_mean), percent(last_mean), points(last_mean - first_mean))
        table.add_row("mean of families", "", *means)
    table.add_row(
        "all", str(test["n"]), _interval(base), _interval(final), points(test["difference"])
    )
    low, high = test["difference_ci95"]
    caption = (
        f"{test['conclusion']}\nall, paired by problem: {points(test['difference'])} "
        f"(95%: {points(low)} to {points(high)}), p = {test['p_value']:.3g}"
    )
    table.caption = caption + _not_answered(test["failed"], "\n")
    return table


def _process(found: ProcessComparison) -> Table:
    base, final = found["base"], found["final"]
    judged = (f"{side['judged']:,} of {side['solutions']:,}" for side in (base, final))
    table = plain_table("Steps of the test answers, by their equations", "", "base", "final", "+/-")
    table.add_row("answers with an equation", *judged, "")
    for name, label in _PROCESS_ROWS.items():
        change = _estimate(found["difference"][name], label, "+")
        table.add_row(label, *(_estimate(side[name], label) for side in (base, final)), change)
    return table


def _estimate(found: Estimate, label: str, sign: str = "") -> str:
    """A value with its interval; shares, whose labels end in %, in percent or points."""
    if found["value"] is None:
        return UNKNOWN
    factor, style = (100, f"{sign}.1f") if label.endswith("%") else (1, f"{sign}.2f")
    value, *bounds = (
        format(factor * each, style) for each in (found["value"], *(found["ci95"] or ()))
    )
    return f"{value} ({' to '.join(bounds)})" if bounds else value


def _not_answered(failed: int, before: str = "") -> str:
    return f"{before}{failed:,} not answered" if failed else ""


def _time(seconds_by_phase: Mapping[str, float]) -> Table:
    table = plain_table("Time", "phase", "time", "share %")
    total = sum(seconds_by_phase.values())
    for phase, seconds in seconds_by_phase.items():
        table.add_row(phase, clock_time(seconds), percent(seconds / total if total else 0.0))
    table.add_section()
    table.add_row("all", clock_time(total), "")
    return table


def _score_cells(score: Score) -> tuple[str, ...]:
    low, high = score["ci95"]
    sampled = (score["mean@k"], score["maj@k"], score["pass@k"])
    return (
        percent(score["pass@1"]),
        f"{percent(low)} to {percent(high)}",
        *(UNKNOWN if share is None else percent(share) for share in sampled),
    )


def _interval(score: Score) -> str:
    low, high = score["ci95"]
    return f"{percent(score['pass@1'])} ({percent(low)} to {percent(high)})"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
