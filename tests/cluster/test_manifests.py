"""What KubeRay, `ray up` and SkyPilot read fits their schemas, and runs are safe in it."""

import json
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import kubernetes_validate
import psutil
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.files import gpus_needed, load, pins

HERE = Path(__file__).parent
KUBERNETES = kubernetes_validate.latest_version()
CONFIG = "jobs/configs/qwen2.5-7b.yaml"

JOB = load("kuberay/rayjob.yaml")
CLUSTERS = {
    "rayjob": JOB["spec"]["rayClusterSpec"],
    "raycluster": load("kuberay/raycluster.yaml")["spec"],
}
PODS = {
    f"{name}-{group.get('groupName', 'head')}": group["template"]
    for name, cluster in CLUSTERS.items()
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
}
ENVIRONMENT = yaml.safe_load(JOB["spec"]["runtimeEnvYAML"])["env_vars"]
GRACE_S = int(ENVIRONMENT["RAY_JOB_STOP_WAIT_TIME_S"])
"""How long a job that is stopped may take to commit."""

pods = pytest.mark.parametrize("template", PODS.values(), ids=PODS)
launchers = pytest.mark.parametrize("provider", ["aws", "gcp"])


def schema(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.schema.json").read_text())


@pytest.mark.parametrize("name", CLUSTERS)
def test_kuberay_files_fit_the_schema_of_kuberay(name: str) -> None:
    jsonschema.validate(load(f"kuberay/{name}.yaml"), schema("kuberay"))


def test_the_job_has_the_cluster_that_the_other_file_describes() -> None:
    assert CLUSTERS["rayjob"] == CLUSTERS["raycluster"]


def test_the_ray_cluster_asks_for_a_token_and_has_the_pinned_version() -> None:
    cluster = CLUSTERS["raycluster"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["rayVersion"] == pins("cpu.txt")["ray"] == pins("gpu.txt")["ray"]


@pods
def test_pods_fit_kubernetes(template: dict[str, Any]) -> None:
    metadata = {"name": "pod", **template["metadata"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    (container,) = pod["spec"]["containers"]
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert container["resources"]["limits"] == container["resources"]["requests"]


@pods
def test_pods_see_the_run_directory_and_have_shared_memory(template: dict[str, Any]) -> None:
    (container,) = template["spec"]["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    claim = load("kuberay/storage.yaml")
    kubernetes_validate.validate(claim, KUBERNETES, strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    data = volumes[mounts["/data"]]["persistentVolumeClaim"]
    assert data == {"claimName": claim["metadata"]["name"]}
    assert "run_dir=/data/" in JOB["spec"]["entrypoint"]
    shared = volumes[mounts["/dev/shm"]]["emptyDir"]
    assert shared["medium"] == "Memory"
    # Ray takes 30% of the memory for objects, and would write them to the disk if they do not fit.
    memory = container["resources"]["limits"]["memory"]
    assert int(shared["sizeLimit"].removesuffix("Gi")) >= 0.3 * int(memory.removesuffix("Gi"))


@pods
def test_pods_give_a_run_time_to_commit(template: dict[str, Any]) -> None:
    assert template["spec"]["terminationGracePeriodSeconds"] > GRACE_S


@pods
def test_prometheus_finds_every_pod(template: dict[str, Any]) -> None:
    monitor = load("monitoring/podmonitor.yaml")["spec"]["podMetricsEndpoints"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    assert [endpoint["port"] for endpoint in monitor] == ["metrics"]
    assert template["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": ports["metrics"],
        "prometheus.io/path": "/metrics",
    }


def test_only_nodes_that_a_run_can_lose_are_spot_nodes() -> None:
    stays, spot = CLUSTERS["raycluster"]["workerGroupSpecs"]
    selector = spot["template"]["spec"]["nodeSelector"]
    tolerated = {t["key"]: t for t in spot["template"]["spec"]["tolerations"]}
    assert all(tolerated[key]["value"] == value for key, value in selector.items())
    others = [t["key"] for t in stays["template"]["spec"]["tolerations"]]
    assert set(others) == set(tolerated) - set(selector)
    assert spot["minReplicas"] == 0 < spot["maxReplicas"]
    (container,) = stays["template"]["spec"]["containers"]
    gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert stays["minReplicas"] * gpus >= gpus_needed(CONFIG)


def test_a_job_that_fails_is_tried_again_and_may_commit_when_it_is_stopped() -> None:
    assert JOB["spec"]["backoffLimit"] > 0
    assert all(isinstance(value, str) for value in ENVIRONMENT.values())
    assert ENVIRONMENT["RAY_JOB_STOP_SIGNAL"] in {"SIGINT", "SIGTERM"}


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        (["python", "-m", "jobs.run", "--config", "x.yaml"], True),
        (["python", "-m", "sphere_ray.cli", "run", "x.yaml"], True),
        (["ray", "start", "--head"], False),
        (None, False),
    ],
)
def test_the_head_ends_a_run_before_it_goes(monkeypatch, command, ours) -> None:
    (container,) = PODS["raycluster-head"]["spec"]["containers"]
    *python, code = container["lifecycle"]["preStop"]["exec"]["command"]
    told, waited = [], []
    process = SimpleNamespace(info={"cmdline": command}, terminate=lambda: told.append(command))
    monkeypatch.setattr(psutil, "process_iter", lambda attrs: [process])
    monkeypatch.setattr(psutil, "wait_procs", lambda procs, timeout: waited.append(timeout))
    exec(compile(code, "preStop", "exec"), {})
    assert python == ["python", "-c"]
    assert told == ([command] if ours else [])
    assert waited == [GRACE_S]


@launchers
def test_ray_up_files_fit_the_schema_of_ray(provider: str) -> None:
    config = load(f"{provider}/cluster.yaml")
    ray_schema = resources.files("ray.autoscaler").joinpath("ray-schema.json").read_text()
    jsonschema.validate(config, json.loads(ray_schema))
    validate_config(prepare_config(config))


@launchers
def test_ray_up_clusters_ask_for_a_token_and_listen_on_loopback(provider: str) -> None:
    config = load(f"{provider}/cluster.yaml")
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])


@launchers
def test_ray_up_nodes_share_data_and_memory(provider: str) -> None:
    config = load(f"{provider}/cluster.yaml")
    options = config["docker"]["run_options"]
    assert "-v /data:/data" in options
    assert any(option.startswith("--shm-size=") for option in options)
    assert any("mount" in c and "/data" in c for c in config["initialization_commands"])


@launchers
def test_ray_up_has_spot_nodes_beside_one_that_stays(provider: str) -> None:
    config = load(f"{provider}/cluster.yaml")
    types = config["available_node_types"]
    spot = {name for name, each in types.items() if "spot" in str(each["node_config"]).lower()}
    assert spot == {"spot"}
    assert types["spot"]["min_workers"] == 0 < types["spot"]["max_workers"]
    assert types["gpu"]["min_workers"] == types["gpu"]["max_workers"] == 1
    assert sum(each.get("max_workers", 0) for each in types.values()) == config["max_workers"]


def test_the_task_fits_the_schema_of_skypilot_and_survives_the_loss_of_its_machines() -> None:
    task = load("skypilot/task.yaml")
    jsonschema.validate(task, schema("skypilot"))
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"]["max_restarts_on_errors"] > 0
    assert int(task["resources"]["accelerators"].rpartition(":")[2]) >= gpus_needed(CONFIG)
    assert task["envs"]["CONFIG"] == CONFIG
    assert task["envs"]["RUN_DIR"].startswith("s3://")
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}
    assert "RAY_AUTH_MODE=token" in task["run"]
