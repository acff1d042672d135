# Every target does its own set-up (.ci/setup): once, and again when pins or pyproject.toml change.
SHELL := bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo proof test check fix test-slow bench setup pins

demo:  ## one iteration of SPHERE on a real 135M model, CPU only
	@.ci/setup
	sphere run jobs/configs/laptop.yaml

proof:  ## the method against its parts and against samples, over seeds; CPU only, hours
	@.ci/setup
	sphere proof jobs/configs/proof.yaml

test:  ## all tests that fit in minutes, real engines on tiny models included
	@.ci/setup dev
	pytest -n 2 --dist loadfile  # most of their time, one thread imports

check:  ## lint, format, types, import contracts, spelling
	@.ci/setup dev
	ruff check
	ruff format --check
	mypy
	lint-imports
	codespell

fix:
	@.ci/setup dev
	ruff check --fix
	ruff format

test-slow:  ## needs the embedded weights, or more than two minutes
	@.ci/setup dev
	pytest -m slow

bench:  ## all measurements; writes tests/benchmarks/RESULTS.md and results.json
	@.ci/setup dev
	python -m tests.benchmarks

setup:
	@.ci/setup dev

pins:  ## resolve constraints/ anew, after a change of dependencies in pyproject.toml
	@.ci/setup pins
