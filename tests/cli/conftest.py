import pytest
import yaml


@pytest.fixture
def config(tmp_path):
    """A small configuration that is valid, as a file."""
    path = tmp_path / "config.yaml"
    document = {
        "name": "test",
        "run_dir": str(tmp_path / "run"),
        "problems": {
            split: {"source": f"file:{split}.jsonl"} for split in ("train", "validation", "test")
        },
        "engines": {"policy": {"path": "tiny:policy"}, "policy_pool": {"kv_cache_gib": 1}},
    }
    path.write_text(yaml.safe_dump(document))
    return path
