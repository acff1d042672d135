from typing import Any

import pytest


@pytest.fixture
def minimal() -> dict[str, Any]:
    """The smallest document that is a valid configuration."""
    return {
        "name": "try",
        "run_dir": "runs/try",
        "problems": {
            "train": {"source": "file:train.jsonl"},
            "validation": {"source": "file:validation.jsonl"},
            "test": {"source": "file:test.jsonl"},
        },
        "engines": {
            "policy": {"path": "tiny:llama"},
            "policy_pool": {"kv_cache_gib": 1},
        },
    }
