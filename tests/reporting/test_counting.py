import io
import pickle

import pytest
import ray
from rich.console import Console

from sphere_ray.reporting.metrics import CounterSink, follow, update_from
from sphere_ray.reporting.progress import ProgressBoard


class Timers:
    def __init__(self):
        self.waiting = []

    def __call__(self, seconds, call):
        self.waiting.append((seconds, call))

    def fire(self):
        _, call = self.waiting.pop(0)
        call()


def test_a_sink_ships_sums_once_per_interval():
    shipped, timers = [], Timers()
    sink = CounterSink(shipped.append, start_timer=timers)
    sink.add(chains=2, tokens=10)
    sink.add(tokens=5)
    assert (shipped, len(timers.waiting)) == ([], 1)
    timers.fire()
    assert shipped == [{"chains": 2, "tokens": 15}]
    sink.add(chains=1)
    timers.fire()
    assert shipped[1:] == [{"chains": 1}]


def test_flushing_leaves_nothing_for_the_timer():
    shipped, timers = [], Timers()
    sink = CounterSink(shipped.append, start_timer=timers)
    sink.add(errors=1)
    sink.flush()
    timers.fire()
    assert shipped == [{"errors": 1}]


def ship_nowhere(counts):
    pass


def test_a_pickled_sink_starts_empty():
    sink = CounterSink(ship_nowhere, start_timer=Timers())
    sink.add(tokens=3)
    copy = pickle.loads(pickle.dumps(sink))
    copy.flush()
    assert isinstance(copy, CounterSink)


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Stage:
    def __init__(self, progress):
        self.progress = progress

    def work(self, times):
        for _ in range(times):
            self.progress.add(problems=1, tokens=10)
        self.progress.flush()


@pytest.mark.ray
def test_counts_of_all_actors_reach_the_board(cluster):
    board = ProgressBoard(Console(file=io.StringIO()))
    with (
        board.phase("rollout", 50, "problems", first=10) as phase,
        follow(phase, done="problems", interval_s=0.05) as hub,
    ):
        stages = [Stage.remote(hub.sink()) for _ in range(2)]
        ray.get([stage.work.remote(20) for stage in stages])
        while hub.totals().get("tokens", 0) < 400:
            pass  # Counts travel without anyone waiting for them.
    assert phase.snapshot.done == 50
    assert phase.snapshot.counts == {"tokens": 400}


def test_counts_with_a_path_are_details_and_nobody_is_shown_them():
    shown = io.StringIO()
    with ProgressBoard(Console(file=shown)).phase("rollouts", 9, "problems", first=2) as phase:
        update_from(
            phase, {"problems": 3, "tokens": 7, "verdicts/diversity/wrong": 4}, done="problems"
        )
        assert phase.snapshot.done == 5
        assert phase.snapshot.counts == {"tokens": 7}
        assert phase.snapshot.details == {"verdicts/diversity/wrong": 4}
    assert "7 tokens" in shown.getvalue()
    assert "diversity" not in shown.getvalue()
