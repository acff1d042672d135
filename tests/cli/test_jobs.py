import os
import signal
import subprocess
import sys
import textwrap

import pytest

WITH_A_RUN_THAT_WAITS = textwrap.dedent(
    """
    import signal, sys
    from types import ModuleType

    def run(settings, origin):
        try:
            print("running", flush=True)
            signal.pause()
        finally:
            print("cleaned up", flush=True)

    command = ModuleType("sphere_ray.commands.run")
    command.run, command.results_in = run, str
    sys.modules[command.__name__] = command
    from jobs.run import main
    main()
    """
)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_job_that_is_stopped_cleans_up_and_tells(config, number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_A_RUN_THAT_WAITS, "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "running\n"
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == "cleaned up\n"
    assert err.startswith("stopped; run the same command again")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("jobs.run", ["--config", "absent.yaml", "--set", "a=1"]),
    ],
)
def test_jobs_fail_as_the_commands_do(module, arguments):
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "absent" in done.stderr
