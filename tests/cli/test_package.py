import subprocess
import sys

import pytest

import sphere_ray
from sphere_ray.config import load_config
from sphere_ray.records import Chain, PreferencePair, Problem, Verdict

HEAVY = ("ray", "torch", "vllm", "deepspeed", "transformers", "pyarrow")


def test_importing_is_fast_and_light():
    script = (
        "import sys, time\n"
        "began = time.process_time()\n"
        "import sphere_ray\n"
        "from sphere_ray import Problem, Verdict\n"
        "seconds = time.process_time() - began\n"
        f"print([m for m in {HEAVY} if m in sys.modules], seconds < 0.3)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[] True\n", done.stderr


def test_public_names_are_the_objects_of_their_modules():
    assert sphere_ray.load_config is load_config
    assert (sphere_ray.Chain, sphere_ray.PreferencePair) == (Chain, PreferencePair)
    assert (sphere_ray.Problem, sphere_ray.Verdict) == (Problem, Verdict)
    assert set(dir(sphere_ray)) == set(sphere_ray.__all__)


def test_every_public_name_loads():
    for name in sphere_ray.__all__:
        assert getattr(sphere_ray, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = sphere_ray.nothing
