"""The files of cluster/ fit the systems that read them, and name only what exists."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from sphere_ray.config import load_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = kubernetes_validate.latest_version()

# The parts of KubeRay's ray.io/v1 that the manifests use (ray-operator/apis/ray/v1).
RAY_JOB = {
    "entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished", "runtimeEnvYAML", "rayClusterSpec",
}  # fmt: skip
RAY_CLUSTER = {
    "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "authOptions", "headGroupSpec",
    "workerGroupSpecs",
}  # fmt: skip
HEAD_GROUP = {"serviceType", "rayStartParams", "template"}
WORKER_GROUP = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"
}  # fmt: skip


def load(path: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / path).read_text())


def ray_clusters() -> list[dict[str, Any]]:
    return [
        load("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"],
        load("kuberay/raycluster.yaml")["spec"],
    ]


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_ray_up_file_fits_the_schema_of_ray() -> None:
    schema = json.loads(resources.files("ray.autoscaler").joinpath("ray-schema.json").read_text())
    jsonschema.validate(load("aws/cluster.yaml"), schema)


def test_ray_up_node_types_agree() -> None:
    config = load("aws/cluster.yaml")
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    assert sum(t.get("max_workers", 0) for t in types.values()) <= config["max_workers"]


def test_ray_up_cluster_asks_for_a_token_and_listens_on_loopback() -> None:
    config = load("aws/cluster.yaml")
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]
    head = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head


def test_volume_claim_fits_kubernetes() -> None:
    kubernetes_validate.validate(load("kuberay/storage.yaml"), KUBERNETES, strict=True)


@pytest.mark.parametrize("cluster", ray_clusters(), ids=["rayjob", "raycluster"])
def test_pods_fit_kubernetes(cluster: dict[str, Any]) -> None:
    for group in groups(cluster):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}} | group["template"]
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        (container,) = pod["spec"]["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["resources"]["limits"] == container["resources"]["requests"]


@pytest.mark.parametrize("cluster", ray_clusters(), ids=["rayjob", "raycluster"])
def test_ray_clusters_fit_kuberay(cluster: dict[str, Any]) -> None:
    assert cluster.keys() <= RAY_CLUSTER
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"].keys() <= HEAD_GROUP
    assert cluster["rayVersion"] == pins("cpu.txt")["ray"] == pins("gpu.txt")["ray"]
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= WORKER_GROUP
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups(cluster):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_ray_job_fits_kuberay_and_uses_the_claim() -> None:
    spec = load("kuberay/rayjob.yaml")["spec"]
    assert spec.keys() <= RAY_JOB
    environment = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert all(isinstance(value, str) for value in environment.values())
    claim = load("kuberay/storage.yaml")["metadata"]["name"]
    for group in groups(spec["rayClusterSpec"]):
        volumes = group["template"]["spec"]["volumes"]
        assert {"claimName": claim} in [v.get("persistentVolumeClaim") for v in volumes]


def test_both_kuberay_files_describe_the_same_cluster() -> None:
    job, cluster = ray_clusters()
    assert job == cluster


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_images_copy_what_exists(name: str) -> None:
    text = (CLUSTER / "docker" / name).read_text().replace("\\\n", " ")
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    for source in [word for words in copied for word in words]:
        assert (ROOT / source).exists(), source
    used = set(re.findall(r"constraints/[\w.]+", text))
    assert len(used) >= 2
    assert all((ROOT / path).is_file() for path in used)


def tree_text() -> list[tuple[str, str]]:
    files = [path for path in sorted(CLUSTER.rglob("*")) if path.is_file()]
    return [(str(path.relative_to(ROOT)), path.read_text()) for path in files]


def test_entry_points_and_files_named_exist() -> None:
    for name, text in tree_text():
        for module in re.findall(r"python -m (jobs\.\w+)", text):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{name}: {module}"
        for path in re.findall(r"\b(?:jobs/configs|cluster/\w+|tests)/[\w.-]*[\w-]", text):
            assert (ROOT / path).exists(), f"{name}: {path}"


def test_overrides_in_commands_are_known_settings() -> None:
    for name, text in tree_text():
        found = re.findall(r"--config (jobs/configs/\S+\.yaml)\s+--set (\w+=[^\s\"]+)", text)
        for config, override in found:
            assert load_config(ROOT / config, [override]).run_dir == override.split("=")[1], name


@pytest.mark.parametrize("directory", ["kuberay", "aws"])
def test_placeholders_are_explained(directory: str) -> None:
    readme = (CLUSTER / directory / "README.md").read_text()
    for path in (CLUSTER / directory).glob("*.yaml"):
        for word in re.findall(r"\b(?:REGISTRY|AMI_ID|FILE_SYSTEM_ID)\b", path.read_text()):
            assert f"`{word}" in readme


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "constraints" / name).read_text().split()
    return dict(line.split("==") for line in lines)
