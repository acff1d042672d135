"""A driver that dies without a word in the middle of training."""

import os
import pickle
import signal
import sys
from pathlib import Path

import ray
from sphere_ray.training.trainer import train

from sphere_ray.training.messages import StepMetrics


def _main(address: str, request_file: str, last_step: int) -> None:
    def die(metrics: StepMetrics) -> None:
        if metrics.step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    ray.init(address=address)
    train(pickle.loads(Path(request_file).read_bytes()), die)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
