# make demo    set up, then run the demo
# make test    set up, then run the tests
# make lint    ruff and mypy
#
# VENV places the virtual environment elsewhere, e.g. VENV=~/.cache/jepawm-venv make test
SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.jepawm-$(shell cat constraints.txt pyproject.toml | sha256sum | cut -c1-16)
HERE := $(VENV)/.jepawm-source
EXTRAS := pusht,classic,mujoco,metaworld,robosuite,vision,zarr,hdf5,lance,rlds,video,test,lint

export RAY_USAGE_STATS_ENABLED := 0
export RAY_AUTH_MODE := disabled
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0

.PHONY: setup demo test lint format clean
setup: $(STAMP)
	@if [ "$$(cat $(HERE) 2>/dev/null)" != "$(CURDIR)" ]; then \
	  $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable . && echo "$(CURDIR)" > $(HERE); fi

# Its name tells what it was made from; a clone has newer files and the same contents.
$(STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install it (Debian, Ubuntu: apt-get install python3.11 python3.11-venv) or set PYTHON=python3"; exit 2; }
	@echo "== setup: virtual environment in $(VENV) (about 8 GB with torch's CUDA libraries, a few minutes)"
	@$(PYTHON) -m venv $(VENV) || { echo "error: cannot make a virtual environment; on Debian: apt-get install python3.11-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools wheel -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation --editable ".[$(EXTRAS)]"
	@rm -f $(VENV)/.jepawm-*
	@echo "$(CURDIR)" > $(HERE)
	@touch $(STAMP)

demo: setup
	$(BIN)/python ray_jobs/train.py

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
