"""`method/` on a virtual clock: streaming against a search in lock-step, on the same work.

Both run the same coroutines; in lock-step the engines serve in waves, so that all problems of a
batch advance one depth together. Prints `search_vs_lockstep`: the time of lock-step over that of
streaming, at lock-step's best batch size among those that fit into the engine at once. (A larger
batch queues in the engine, which then fills its slots by itself: `search_vs_any_lockstep`. No
search can be faster than `full_steps_s`, the same tokens in steps that are all full.)
"""

import argparse
import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sphere_ray.config.method import SearchSettings
from sphere_ray.method.ports import GenerateRequest, Grade, Score, ScoreRequest
from sphere_ray.method.search import Search, pruned_search
from sphere_ray.records import Candidate, Problem, StageName, StopReason, Verdict
from tests.benchmarks.report import emit, rounded
from tests.benchmarks.virtual import Engine, run

STEP_S, SEQUENCE_S, SLOTS = 0.020, 0.0001, 256
RECORDED = Path(__file__).with_name("recorded_chains.json")
"""Step lengths in SmolLM2's tokens: of its own chains (two steps), of human ones (two to eight)."""
CANDIDATES = 5
FITTING = SLOTS // (2 * CANDIDATES)
"""So many problems fit into the engine at once, with both branches."""
BATCHES = (1, 2, 4, 8, 16, FITTING, 64, 256, 1024)


@dataclass(frozen=True)
class Recorded:
    """Chains as lists of step lengths in tokens."""

    chains: Sequence[Sequence[int]]

    def ends(self, depth: int) -> float:
        """How likely a chain that has `depth` steps and takes one more is then at its end."""
        longer = sum(len(chain) > depth for chain in self.chains)
        return sum(len(chain) == depth + 1 for chain in self.chains) / longer if longer else 1.0

    def lengths(self, depth: int) -> Sequence[int]:
        """Step lengths at a depth."""
        found = [chain[depth] for chain in self.chains if len(chain) > depth]
        return found or [chain[-1] for chain in self.chains]


class Policy:
    """The port `Generator`: lengths and ends as recorded, on a virtual engine."""

    model = "policy"

    def __init__(self, engine: Engine, recorded: Recorded) -> None:
        self._engine = engine
        depths = range(1 + max(map(len, recorded.chains)))
        self._ends = [recorded.ends(depth) for depth in depths]
        self._lengths = [recorded.lengths(depth) for depth in depths]

    async def generate(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        """See `Generator.generate`."""
        depth = sum(token == 0 for token in request.prefix_ids)
        place = min(depth, len(self._ends) - 1)
        draws = random.Random(request.seed)
        found = []
        for index in range(request.n):
            length = min(draws.choice(self._lengths[place]), request.max_tokens)
            final = draws.random() < self._ends[place]
            found.append(
                Candidate(
                    text=f"{request.seed} {index}\n\n",
                    token_ids=(*(1,) * (length - 1), 0),
                    logprob=-draws.random(),
                    stop_reason=StopReason.END if final else StopReason.BOUNDARY,
                )
            )
        await asyncio.gather(
            *(self._engine.decode(len(c.token_ids), request.priority) for c in found)
        )
        return tuple(found)


class Reward:
    """The port `Scorer`: one step of its engine for each candidate."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`."""
        await asyncio.gather(
            *(self._engine.decode(1, request.priority) for _ in request.candidates)
        )
        draws = random.Random(request.seed)
        return tuple(Score(reward=draws.random()) for _ in request.candidates)


class Grading:
    """The ports `Grader` and `Progress`, of no interest here."""

    async def grade(self, response: str, gold: str) -> Grade:
        return Grade(verdict=Verdict.CORRECT, answer=gold)

    def add(self, **counts: int) -> None:
        pass


def search(number: int, policy: Policy, reward: Reward, settings: SearchSettings) -> Search:
    """The search of one problem."""
    problem = Problem(problem_id=str(number), question="?", answer="1", source="benchmark")
    nothing = Grading()
    return Search(
        problem=problem,
        stage=StageName.SELF_GENERATION,
        prompt=(),
        question=(),
        settings=settings,
        generator=policy,
        scorer=reward,
        grader=nothing,
        progress=nothing,
        search_id=problem.problem_id,
        seed=number,
        priority=number,
    )


async def solve(recorded: Recorded, problems: int, batch: int, *, waves: bool) -> int:
    """Search all problems, `batch` at a time; returns the tokens decoded."""
    engines = [Engine(STEP_S, SEQUENCE_S, SLOTS, waves=waves) for _ in range(2)]
    policy, reward = Policy(engines[0], recorded), Reward(engines[1])
    settings = SearchSettings(
        num_candidates=CANDIDATES, max_depth=64, max_step_tokens=1024, max_chain_tokens=16384
    )
    for first in range(0, problems, batch):
        some = range(first, min(first + batch, problems))
        await asyncio.gather(
            *(pruned_search(search(number, policy, reward, settings)) for number in some)
        )
    return engines[0].tokens


def compare(recorded: Recorded, problems: int) -> dict[str, Any]:
    """Seconds of streaming, and of lock-step by batch size."""
    tokens, streaming = run(solve(recorded, problems, problems, waves=False))
    lockstep = {}
    for batch in sorted({min(batch, problems) for batch in BATCHES}):
        same, lockstep[batch] = run(solve(recorded, problems, batch, waves=True))
        if same != tokens:
            raise AssertionError(f"lock-step decoded {same} tokens, streaming {tokens}")
    fitting = min((batch for batch in lockstep if batch <= FITTING), key=lockstep.__getitem__)
    queueing = min(lockstep, key=lockstep.__getitem__)
    return {
        "problems": problems,
        "tokens": tokens,
        "streaming_s": rounded(streaming),
        "full_steps_s": rounded(tokens / SLOTS * (STEP_S + SLOTS * SEQUENCE_S)),
        "lockstep_s": {batch: rounded(seconds) for batch, seconds in lockstep.items()},
        "best_fitting_batch": fitting,
        "ratio": rounded(lockstep[fitting] / streaming),
        "best_batch": queueing,
        "ratio_to_any_batch": rounded(lockstep[queueing] / streaming),
    }


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, nargs="+", default=[64, 256, 1024])
    chosen = parser.parse_args()
    recorded = json.loads(RECORDED.read_text("utf-8"))
    found = {
        name: [compare(Recorded(chains), problems) for problems in chosen.problems]
        for name, chains in recorded.items()
    }
    shown = found["gsm8k_worked_solutions"][-2]
    emit("search_vs_lockstep", shown["ratio"], by_chains=found)
    emit("search_vs_any_lockstep", shown["ratio_to_any_batch"])


if __name__ == "__main__":
    main()
