import json
from importlib.metadata import version

from sphere_ray.compat.names import doubts

HERE = version("pydantic")


def test_the_tested_version_with_all_names_raises_no_doubt():
    assert doubts(["pydantic"], HERE, [(json, "dumps"), (json.JSONEncoder, "encode")]) == []


def test_another_version_is_told():
    assert doubts(["pydantic"], "0.1", []) == [f"version {HERE} is installed and 0.1 was tested"]


def test_a_name_that_is_gone_is_told_with_its_owner():
    (doubt,) = doubts(["pydantic"], HERE, [(json.JSONEncoder, "_handle_blocked")])
    assert doubt == "JSONEncoder has no _handle_blocked"


def test_the_first_installed_distribution_counts():
    assert doubts(["no-such-package", "pydantic"], HERE, []) == []
    assert doubts(["no-such-package"], HERE, []) != []
