"""Of what Ray prints on the driver's terminal only the named lines are missing."""

import io
import warnings

import pytest
from ray._private import worker

from sphere_ray.compat import names, ray_log

STARTED = (
    "WARNING: 16 PYTHON worker processes have been started on node: 8907e3d5 with address: 10.0.0.2"
    ", which is 8x the maximum expected startup concurrency (2)."
)
WRITERS = (
    "The maximum number of concurrent tasks for 'Write' is set to 2, but the operator only"
    " received 1 input(s)."
)


@pytest.fixture(autouse=True)
def own_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "print_worker_logs", worker.print_worker_logs)


def printed(*lines: str) -> str:
    """What Ray prints of an error that the raylet reports, by its own function."""
    shown = io.StringIO()
    data = {"lines": list(lines), "pid": "raylet", "is_err": False}
    worker.print_worker_logs(data, shown, False)
    return shown.getvalue()


def test_the_line_about_many_workers_is_missing_and_others_are_not() -> None:
    assert "16 PYTHON" in printed(STARTED)
    ray_log.silence()
    ray_log.silence()
    assert printed(STARTED) == ""
    other = "The node with node id 8907 has been marked dead."
    assert other in printed(STARTED, other)
    assert "16 PYTHON" not in printed(STARTED, other)


def test_in_another_ray_all_lines_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "version", lambda _: "2.61.0")
    ray_log.silence()
    assert "16 PYTHON" in printed(STARTED)


def test_a_stream_of_few_batches_does_not_warn_about_its_writers() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ray_log.silence()
        warnings.warn(WRITERS, stacklevel=1)
        warnings.warn(WRITERS.replace("Write", "MapBatches(Evaluate)"), stacklevel=1)
    assert ["Write" in str(each.message) for each in caught] == [False]
