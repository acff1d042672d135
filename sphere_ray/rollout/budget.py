"""Which problems the next rollouts spend less on: those that were always right or always wrong."""

import pyarrow as pa

from sphere_ray import storage
from sphere_ray.method.solutions import is_settled
from sphere_ray.records import Problem
from sphere_ray.rollout.shards import ShardWriter, in_tasks, part, small_tables
from sphere_ray.rollout.stages import SETTLED, rollouts_of
from sphere_ray.schema import to_table


def mark(rollouts: str, output: str) -> int:
    """Write the problems of the rollout files to `output`, each with whether it is settled.

    Returns how many are.

    Raises:
        EngineError: a task failed for a reason outside of it.
    """
    files = enumerate(storage.data_files(rollouts))
    return sum(in_tasks(_mark, [(file, part(output, index)) for index, file in files], output))


def _mark(job: tuple[str, str]) -> int:
    file, output = job
    count = 0
    with ShardWriter(output) as writer:
        for table in small_tables(file):
            found = rollouts_of(table)
            settled = list(map(is_settled, found))
            problems = to_table([rollout.problem for rollout in found], Problem)
            writer.write(problems.append_column(SETTLED, pa.array(settled)))
            count += sum(settled)
    return count
