import io
import pickle
from typing import ClassVar

import pytest
import ray
from rich.console import Console

from sphere_ray.reporting.metrics import CounterSink, RunMetrics, follow
from sphere_ray.reporting.progress import PhaseState, ProgressBoard, Snapshot


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


class FakeMetric:
    """Keeps what Ray would export: counters by adding, gauges by replacing."""

    exported: ClassVar[dict[tuple[str, ...], float]] = {}

    def __init__(self, name, _description, tag_keys):
        self.name = name
        self.tag_keys = tag_keys

    def inc(self, value, tags):
        assert value > 0
        key = self._key(tags)
        self.exported[key] = self.exported.get(key, 0) + value

    def set(self, value, tags):
        self.exported[self._key(tags)] = value

    def _key(self, tags):
        return (self.name, *(tags[tag] for tag in self.tag_keys))


def test_snapshots_become_ray_metrics():
    metrics = RunMetrics("r1", counter=FakeMetric, gauge=FakeMetric)
    state = {"name": "rollout", "unit": "problems", "total": 9, "iteration": 2, "first": 4}
    first = {"done": 5, "counts": {"tokens": 70, "pairs": 0}, "state": PhaseState.RUNNING}
    metrics.on_progress(Snapshot(**state, **first, seconds=2.0))
    here = ("r1", "2", "rollout")
    assert FakeMetric.exported["sphere_phase", *here] == 1
    last = {"done": 9, "counts": {"tokens": 100, "pairs": 3}, "state": PhaseState.FINISHED}
    metrics.on_progress(Snapshot(**state, **last, seconds=4.0))
    trained = {"name": "train", "unit": "steps", "total": 2, "done": 1, "counts": {"loss": 0.7}}
    metrics.on_progress(Snapshot(**trained))
    assert FakeMetric.exported == {
        ("sphere_problems_total", *here): 5,
        ("sphere_tokens_total", *here): 100,
        ("sphere_pairs_total", *here): 3,
        ("sphere_phase", *here): 0,
        ("sphere_phase_done", *here): 9,
        ("sphere_phase_total", *here): 9,
        ("sphere_tokens_per_second", *here): 25,
        ("sphere_phase", "r1", "", "train"): 1,
        ("sphere_phase_done", "r1", "", "train"): 1,
        ("sphere_phase_total", "r1", "", "train"): 2,
        ("sphere_loss", "r1", "", "train"): 0.7,
    }
