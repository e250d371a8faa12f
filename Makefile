# Everything runs in .venv, made by `make install` with Python 3.11 or 3.12, the first of
# these that is there: the newer jax that comes with 3.12 compiles the tests more slowly.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# a process a core, four at most: each may take 6 GB
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal
RUFF := --line-length 88 --select E,F,I,UP,B,W --ignore E501
export JAX_PLATFORMS ?=

.PHONY: install quickstart test parity aot lint clean

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; none was found; install one or set PYTHON=" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

quickstart: install
	$(BIN)/python experiments/quickstart.py

test: install
	$(PYTEST) -m "not slow and not aot"

# Live against transformers; brings torch.
parity: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,parity]'
	$(PYTEST) -m parity

# Compiles for TPU v5e, v5p and v6e on this machine; brings libtpu.
aot: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,aot]'
	JAX_PLATFORMS=cpu $(BIN)/pytest -m aot

lint: install
	$(BIN)/ruff check $(RUFF) soler1_jax kernels tests experiments
	$(BIN)/ruff format --check soler1_jax kernels tests experiments

clean:
	rm -rf .venv build dist *.egg-info
