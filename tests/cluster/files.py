"""The files of cluster/, read for the tests of this folder."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PLACEHOLDERS = "REGISTRY|AMI_ID|FILE_SYSTEM_ID|PROJECT_ID|FILESTORE_IP|IMAGE|BUCKET"


def load(path: str) -> dict[str, Any]:
    """A YAML file of cluster/."""
    return yaml.safe_load((CLUSTER / path).read_text())


def texts() -> dict[str, str]:
    """Every text of cluster/ by its path from the root."""
    found = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
    files = [path for path in found if path.suffix != ".png"]
    return {str(path.relative_to(ROOT)): path.read_text() for path in files}


def pins(name: str) -> dict[str, str]:
    """The versions that a file of constraints/ names."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints" / name).read_text(), re.M))


def gpus_needed(config: str) -> int:
    """GPUs that rollouts and training of a shipped configuration take, whichever are more."""
    document = yaml.safe_load((ROOT / config).read_text())
    engines = document["engines"]
    pools = [value for name, value in engines.items() if name.endswith("pool")]
    pools += [engines["scorer"]["pool"]] if "pool" in engines["scorer"] else []
    rollout = sum(p["replicas"] * p["gpus"] * p.get("tensor_parallel", 1) for p in pools)
    return max(rollout, document["trainer"]["workers"])
