import pytest
import yaml

from sphere_ray import cli


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


@pytest.fixture
def sphere(capsys, monkeypatch):
    """Run the command line in this process: its exit code, standard output and error."""
    monkeypatch.setattr(cli, "catch_signals", lambda: None)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(list(arguments))
        told = capsys.readouterr()
        return exit_.value.code or 0, told.out, told.err

    return call
