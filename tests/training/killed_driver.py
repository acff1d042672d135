"""A driver that dies without a word in the middle of training."""

import os
import pickle
import signal
import sys
from pathlib import Path

import ray

from sphere_ray.training.job import TrainingJob
from sphere_ray.training.messages import StepMetrics


def _main(address: str, name: str, storage_path: str, request_file: str, last_step: int) -> None:
    def die(metrics: StepMetrics) -> None:
        if metrics.step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    ray.init(address=address)
    request = pickle.loads(Path(request_file).read_bytes())
    TrainingJob(name, storage_path, request.placement).run(request, die)


if __name__ == "__main__":
    _main(*sys.argv[1:5], int(sys.argv[5]))
