"""A run of 100,000 problems: the index is built in bounded memory, and every page within 2 s."""

import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from starlette.testclient import TestClient

from sphere_ray import storage
from sphere_ray.audit.app import create_app
from sphere_ray.audit.journal import Journal
from sphere_ray.audit.library import Library
from sphere_ray.rollout.pairing import pair
from sphere_ray.rollout.shards import ShardWriter, part
from sphere_ray.rollout.stages import rollout_table
from sphere_ray.runs.directory import Run, WritableRun
from tests.audit.made_run import finished, rollout, settings_for

PROBLEMS = 100_000
TEMPLATE = 250
PER_FILE = 2000
PAGE_S = 2.0
INDEX_MIB = 600
"""Memory that the server may take for the index beyond what it needs for a run of few problems."""


def renamed(table: pa.Table, number: int) -> pa.Table:
    """The same rows with ids of other problems; their chains keep their ids."""
    changed = {}
    for name in ("problem_id", "pair_id"):
        if name in table.column_names:
            kind = table.schema.field(name).type
            ids = pc.utf8_replace_slice(table[name], 0, 8, f"{number:08x}")
            changed[name] = ids.cast(kind)
    if "problem" in table.column_names:
        problem = table["problem"].combine_chunks()
        fields = list(problem.type)
        columns = dict(zip([f.name for f in fields], problem.flatten(), strict=True))
        columns["problem_id"] = changed["problem_id"].combine_chunks()
        changed["problem"] = pa.StructArray.from_arrays(list(columns.values()), fields=fields)
    for name, values in changed.items():
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(name), values)
    return table


def large_run(folder: Path) -> Run:
    """Rows of a template, written again and again by the package's own writers."""
    settings = settings_for(folder)
    with WritableRun.create(str(folder), settings) as run:
        rows, pairs = run.file("iter-000/rollouts"), run.file("iter-000/pairs")
        template = rollout_table([rollout(number) for number in range(TEMPLATE)])
        scratch = f"{folder}-template"
        storage.write_table(template, f"{scratch}/rollouts/part-00000.parquet")
        pair(f"{scratch}/rollouts", f"{scratch}/pairs", settings.method)
        kept = pa.concat_tables(storage.tables(f"{scratch}/pairs"))
        dropped = kept.select(["pair_id", "problem_id", "stage", "chosen_chain", "rejected_chain"])
        reasons = np.array(["too_similar", "implausible", "too_long"])[np.arange(len(kept)) % 3]
        dropped = dropped.append_column("reason", pa.array(reasons, pa.string()))
        for at, source in ((rows, template), (pairs, kept), (f"{pairs}/dropped", dropped)):
            for file in range(PROBLEMS // PER_FILE):
                with ShardWriter(part(at, file)) as writer:
                    for copy in range(PER_FILE // TEMPLATE):
                        writer.write(renamed(source, file * (PER_FILE // TEMPLATE) + copy))
        steps = [
            finished(run, "iter-000/rollouts", PROBLEMS),
            finished(run, "iter-000/pairs", PROBLEMS),
        ]
        run.note_current(steps, all_of_them=True)
    return Run.open(str(folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return large_run(tmp_path_factory.mktemp("large") / "made")


def measured(run: Run, journal: Path) -> dict[str, Any]:
    """Open pages as a person would; seconds by page, and the peak of memory in MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    library, seconds = Library(run), dict[str, float]()
    first = time.perf_counter()
    index = library.index(0)
    assert index is not None
    assert len(index.problems.ids) == PROBLEMS
    assert index.num_kept == PROBLEMS
    seconds["(index)"] = time.perf_counter() - first
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    middle = index.problems.ids[PROBLEMS // 2].as_py()
    app = create_app(library, Journal(str(journal)), "ann")
    pages = [
        *("/", "/i/0/problems", "/i/0/problems?page=1500", "/i/0/problems?sort=margin"),
        *("/i/0/problems?q=249+boxes", "/i/0/problems?q=no+such+text&sort=margin"),
        "/i/0/problems?family=trains&stage=self_generation&verdict=wrong&reason=implausible",
        f"/i/0/problem/{middle}",
        *("/i/0/pairs?sort=margin", "/i/0/pairs?kind=dropped&page=2000", "/i/0/pairs?decided=no"),
        *("/i/0/queue?order=random", "/i/0/queue?order=margin&stage=self_generation"),
    ]
    with TestClient(app, base_url="http://localhost") as client:
        for page in pages:
            first = time.perf_counter()
            answer = client.get(page)
            seconds[page] = time.perf_counter() - first
            assert answer.status_code == 200, page
            assert "grader: correct" in answer.text or not re.search("problem/|queue", page)
    return {"seconds": seconds, "index_mib": peak - before}


def test_every_page_opens_within_two_seconds(run: Run, tmp_path: Path) -> None:
    """In a process of its own, whose memory nobody used before."""
    program = (
        "import json, sys; from pathlib import Path; from sphere_ray import Run; "
        "from tests.audit.test_audit_large import measured; "
        "print(json.dumps(measured(Run.open(sys.argv[1]), Path(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", program, run.path, str(tmp_path / "audit.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    slow = {page: s for page, s in found["seconds"].items() if s > PAGE_S and page != "(index)"}
    assert slow == {}
    assert found["index_mib"] < INDEX_MIB
