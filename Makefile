# make demo   the main job on the embedded world; ends with demo/index.html, and how to look around
# make check  lint, types, and the tests that start no Ray: for every few minutes
# make test   lint, types, all tests
# make screenshots   every page of the explorer, as a browser shows it, in screenshots/
# make soak   many random kills; long
# Each builds what it needs in .venv from pyproject.toml and constraints.txt: `make demo` what runs, the
# others also what tests. On Linux that holds 4 GB for NVIDIA's GPUs; for a machine without one,
# `make demo UV_TORCH_BACKEND=cpu` takes PyTorch's builds for CPUs from PyTorch's own index.

PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := demo
.PHONY: demo check test quick-tests ray-tests screenshots soak lint types env dev clean

# Images of containers often set it: then every process compiles what it imports, for seconds.
unexport PYTHONDONTWRITEBYTECODE

INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

env: .venv/runs
dev: .venv/tests

.venv/runs: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(INSTALL) --editable '.[explore]'
	touch $@

.venv/tests: .venv/runs
	$(INSTALL) --editable '.[dev]'
	touch $@

demo: env
	$(BIN)/python jobs/demo.py

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev
	$(BIN)/mypy storage pipeline jobs

check: lint types quick-tests

# Tests that start Ray wait more than they compute: the quick ones run beside them.
test: lint types
	$(MAKE) --jobs 2 quick-tests ray-tests

quick-tests: dev
	$(BIN)/python -m pytest -m 'not ray and not cluster'

ray-tests: dev
	$(BIN)/python -m pytest -m 'ray or cluster'

screenshots: dev
	$(BIN)/python -m tests.explorer.screenshots screenshots

soak: dev
	FACET_SOAK_KILLS=50 $(BIN)/python -m pytest -s tests/integration/test_soak.py
	FACET_KILL_ROUNDS=20 $(BIN)/python -m pytest tests/integration/test_kill.py

clean:
	rm -rf .venv demo screenshots
