# make demo   the main job on the embedded world; ends with demo/index.html
# make check  lint, types, and the tests that start no Ray: for every few minutes
# make test   lint, types, all tests
# make soak   many random kills; long
# All build the environment in .venv from pyproject.toml and constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := demo
.PHONY: demo check test quick-tests ray-tests soak lint types env clean

env: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: env
	$(BIN)/python jobs/demo.py

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/mypy storage pipeline jobs

check: lint types quick-tests

# Tests that start Ray wait more than they compute: the quick ones run beside them.
test: lint types
	$(MAKE) --jobs 2 quick-tests ray-tests

quick-tests: env
	$(BIN)/python -m pytest -m 'not ray and not cluster'

ray-tests: env
	$(BIN)/python -m pytest -m 'ray or cluster'

soak: env
	FACET_SOAK_KILLS=50 $(BIN)/python -m pytest -s tests/integration/test_soak.py
	FACET_KILL_ROUNDS=20 $(BIN)/python -m pytest tests/integration/test_kill.py

clean:
	rm -rf .venv demo
