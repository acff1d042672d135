"""The machine in one line, which must not say whose it is."""

import getpass
import re
import socket

from sphere_ray.machine import machine
from sphere_ray.runs.manifest import versions


def test_the_machine_is_described_without_names():
    found = machine()
    assert re.fullmatch(r"\S+ \S+, \d+ cores \(.+\), \d+ GiB, (no GPU|\d+ GPUs? \(.+\))", found)
    assert versions()["machine"] == found
    words = set(re.findall(r"[\w.-]+", found))
    assert not words & {socket.gethostname(), getpass.getuser()}
