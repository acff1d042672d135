import io
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from sphere_ray.reporting.progress import PhaseState, ProgressBoard, Snapshot, clock_time, describe


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log():
    return io.StringIO()


def board_on(log, clock, **options):
    return ProgressBoard(Console(file=log, width=60), clock=clock, interval_s=10, **options)


def test_a_job_log_gets_one_line_per_interval(log, clock):
    with board_on(log, clock).phase("rollout", 48, "problems", iteration=0) as phase:
        clock.now += 4
        phase.update(done=1, chains=2, tokens=300)
        clock.now += 6
        phase.update(done=12, chains=96, tokens=31_200, pairs=7, errors=0)
        clock.now += 3
        phase.update(done=13)
        clock.now += 17
        phase.update(done=48, tokens=62_000)
    assert log.getvalue().splitlines() == [
        "iteration 0 rollout: 0/48 problems",
        "iteration 0 rollout: 12/48 problems, 96 chains, 31,200 tokens, 7 pairs, 0 errors, "
        "3,120 tokens/s, ETA 0:30",
        "iteration 0 rollout: 48/48 problems, 96 chains, 62,000 tokens, 7 pairs, 0 errors, "
        "2,067 tokens/s, ETA 0:00",
        "iteration 0 rollout: 48/48 problems, 96 chains, 62,000 tokens, 7 pairs, 0 errors, "
        "2,067 tokens/s, finished after 0:30",
    ]


def test_training_shows_values_as_values(log, clock):
    with board_on(log, clock).phase("train", 20, "steps") as phase:
        clock.now += 60
        phase.update(done=5, loss=0.69314718, accuracy=0.5)
    assert "train: 5/20 steps, loss 0.6931, accuracy 0.5, ETA 3:00" in log.getvalue()


def test_a_total_may_become_known_later(log, clock):
    with board_on(log, clock).phase("train", 0, "steps") as phase:
        clock.now += 60
        phase.update(done=5, total=20)
    assert log.getvalue().splitlines() == [
        "train: 0 steps",
        "train: 5/20 steps, ETA 3:00",
        "train: 20/20 steps, finished after 1:00",
    ]


def test_a_phase_that_raises_ends_as_stopped(log, clock):
    with pytest.raises(KeyboardInterrupt), board_on(log, clock).phase("train", 2, "steps"):
        raise KeyboardInterrupt
    assert log.getvalue().splitlines()[-1] == "train: 0/2 steps, stopped after 0:00"


def test_work_of_an_earlier_session_does_not_count_as_speed(log, clock):
    with board_on(log, clock).phase("rollout", 100, "problems", first=50) as phase:
        clock.now += 100
        phase.update(done=60)
        assert phase.snapshot.eta == 400


def test_updates_after_the_end_are_ignored(log, clock):
    with board_on(log, clock).phase("rollout", 2, "problems") as phase:
        phase.update(done=2)
    phase.update(done=1)
    assert (phase.snapshot.done, phase.snapshot.state) == (2, PhaseState.FINISHED)


def test_listeners_see_every_change(log, clock):
    seen = []
    board = board_on(log, clock, listeners=[seen.append])
    with board.phase("evaluate", 3, "problems") as phase:
        phase.update(done=3)
    assert [(s.state, s.done) for s in seen] == [
        (PhaseState.STARTED, 0),
        (PhaseState.RUNNING, 3),
        (PhaseState.FINISHED, 3),
    ]


def test_threads_do_not_lose_each_others_numbers(log, clock):
    names = [f"n{i}" for i in range(8)]
    with board_on(log, clock).phase("rollout", 1, "problems") as phase:
        threads = [
            threading.Thread(target=lambda n=n: [phase.update(**{n: i}) for i in range(200)])
            for n in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert phase.snapshot.counts == dict.fromkeys(names, 199)


def test_a_terminal_gets_a_bar_with_the_same_numbers(clock):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with ProgressBoard(console, clock=clock).phase("rollout", 4, "problems") as phase:
        clock.now += 2
        phase.update(done=4, tokens=100)
    shown = screen.getvalue()
    assert "━" in shown
    assert "4/4 problems, 100 tokens, 50 tokens/s" in shown


def test_model_text_in_names_is_not_read_as_markup(log, clock):
    board_on(log, clock).log("loading [/bold] [red]x")
    assert log.getvalue() == "loading [/bold] [red]x\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36_000, "10:00:00")]
)
def test_clock_time(seconds, text):
    assert clock_time(seconds) == text


def test_no_eta_before_anything_is_done():
    start = Snapshot(name="rollout", unit="problems", total=5, seconds=9, state=PhaseState.RUNNING)
    assert describe(start) == "rollout: 0/5 problems"
    assert describe(replace(start, done=5)).endswith("ETA 0:00")


def test_two_phases_at_once_share_the_terminal_and_the_log(clock, log):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    for board in (ProgressBoard(console, clock=clock), board_on(log, clock)):
        with board.phase("rollouts", 4, "problems", iteration=1) as rollouts:
            with board.phase("policy", 2, "steps", iteration=0) as policy:
                policy.update(done=2, loss=0.5)
            rollouts.update(done=3)
            with board.phase("evaluation", 9, "problems", iteration=0):
                rollouts.update(done=4)
    last = screen.getvalue().split("iteration 1 rollouts")[-1]  # the last frame shows them all
    for text in ("4/4 problems", "iteration 0 policy", "2/2 steps, loss 0.5", "9/9 problems"):
        assert text in last
    lines = log.getvalue().splitlines()
    assert lines[0] == "iteration 1 rollouts: 0/4 problems"
    assert lines[-1].startswith("iteration 1 rollouts: 4/4 problems, finished")
