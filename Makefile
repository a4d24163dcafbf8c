# make demo          set up, then run the demo
# make test          set up, then run the tests on all cores (PYTEST_ARGS="-n 0": one after the other)
# make test-long     the tests that start clusters, servers and jobs, or kill them
# make lint          ruff and mypy
# make check-pins    show that constraints.txt resolves for each Python and platform (asks the package index; minutes)
#
# VENV places the virtual environment elsewhere, EXTRAS chooses what is installed, PYTHON chooses the interpreter:
#   VENV=~/.cache/jepawm-venv make test
#   make setup EXTRAS=pusht PYTHON=python3.12
# docs/installation.md lists the extras with their sizes. A later make in the same VENV keeps its Python and EXTRAS.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
SOURCE := $(VENV)/.jepawm-source
CHOSEN := $(VENV)/.jepawm-extras
ALL_EXTRAS := pusht,classic,mujoco,metaworld,robosuite,vision,huggingface,search,metrics,zarr,hdf5,lance,rlds,video,s3,gs,test,lint
EXTRAS ?= $(or $(shell cat $(CHOSEN) 2>/dev/null),$(ALL_EXTRAS))

# A Python fits if it runs (a version manager's python3.12 may only print an error), is one of 3.11 to 3.13, and can
# make virtual environments. The Python of an existing environment comes first.
FITS := -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
VERSION_OF := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for python in $(BIN)/python python3.11 python3.12 python3.13 python3; do \
  if $$python $(FITS) >/dev/null 2>&1; then echo $$python; exit; fi; done)
else
PYTHON_GIVEN := $(PYTHON)
endif
# Where no Python fits, uv makes the environment and brings a Python 3.12. UV=uv installs with uv in any case.
ifeq ($(PYTHON),)
UV ?= $(shell command -v uv)
endif
ifneq ($(PYTHON),)
VERSION := $(shell $(PYTHON) $(FITS) >/dev/null 2>&1 && $(PYTHON) $(VERSION_OF))
else
VERSION := $(if $(UV),3.12)
endif
SHA256 := $(shell command -v sha256sum || echo shasum -a 256)
KEY := $(shell (cat constraints.txt pyproject.toml; echo "$(VERSION) $(EXTRAS)") | $(SHA256) | cut -c1-16)
STAMP := $(VENV)/.jepawm-$(KEY)

# An environment of another Python is made anew; any other folder of that name is not cleared.
CLEAR := $(if $(wildcard $(VENV)/pyvenv.cfg),--clear)
ifneq ($(UV),)
MAKE_VENV := $(UV) venv --quiet $(CLEAR) --python $(or $(PYTHON),$(VERSION)) $(VENV)
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
else
MAKE_VENV := $(PYTHON) -m venv $(CLEAR) $(VENV)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

export RAY_USAGE_STATS_ENABLED := 0
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0
# Python keeps what it compiles, also where the shell says otherwise: pytest, its workers, Ray and the commands under test
# are some 100 processes, and each would compile the package again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test test-long lint format check-pins venv-key clean
setup: $(STAMP)
	@if [ "$$(cat $(SOURCE) 2>/dev/null)" != "$(CURDIR)" ]; then \
	  $(INSTALL) --no-deps --no-build-isolation --editable . && echo "$(CURDIR)" > $(SOURCE); fi

# The stamp's name is a hash of what the environment was made from; a new clone has newer files of the same contents.
$(STAMP):
	@if [ -z "$(VERSION)" ] && [ -n "$(PYTHON_GIVEN)" ]; then \
	  echo "error: PYTHON=$(PYTHON_GIVEN) is no Python from 3.11 to 3.13 that can make virtual environments"; exit 2; \
	elif [ -z "$(VERSION)" ]; then \
	  echo "error: found no Python from 3.11 to 3.13 that can make virtual environments, and no uv"; \
	  echo "  Debian 12:     apt-get install python3.11 python3.11-venv"; \
	  echo "  Ubuntu 24.04:  apt-get install python3.12 python3.12-venv"; \
	  echo "  any system:    install uv, or name an interpreter: make setup PYTHON=/path/to/python3"; exit 2; fi
	@echo "== setup: Python $(VERSION) in $(VENV), extras $(EXTRAS) (7 to 9 GB on Linux with torch's CUDA libraries, a few minutes)"
	@if [ "$$($(BIN)/python $(VERSION_OF) 2>/dev/null)" != "$(VERSION)" ]; then $(MAKE_VENV); fi
	$(INSTALL) --upgrade pip setuptools wheel -c constraints.txt
	$(INSTALL) -c constraints.txt --no-build-isolation --editable ".[$(EXTRAS)]"
	@rm -f $(VENV)/.jepawm-*
	@echo "$(CURDIR)" > $(SOURCE)
	@echo "$(EXTRAS)" > $(CHOSEN)
	@touch $(STAMP)

# Fails before anything is installed where EXTRAS lacks what a target needs.
needs-%:
	@case ",$(EXTRAS)," in *,$*,*) ;; \
	  *) echo "error: make $(MAKECMDGOALS) needs the extra '$*': make $(MAKECMDGOALS) EXTRAS=$(EXTRAS),$*"; exit 2;; esac

demo: setup
	$(BIN)/python ray_jobs/train.py

# Tests of an extra that is not installed are skipped, with the reason (PYTEST_ARGS=-rs lists them).
test: needs-test setup
	$(BIN)/python -m pytest -m "not long" $(PYTEST_ARGS)

# Several Rays and their kills, real servers, submitted jobs; CI runs some of them (.ci/run).
test-long: needs-test setup
	$(BIN)/python -m pytest -m long -n 0 --durations=20 $(PYTEST_ARGS)

lint: needs-lint setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: needs-lint setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# By the pip of the environment, which resolves for other machines and installs nothing.
check-pins: setup
	$(BIN)/python .ci/check_pins.py --extras $(ALL_EXTRAS)

# What .ci/run names the environment that it keeps.
venv-key:
	@echo $(KEY)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
