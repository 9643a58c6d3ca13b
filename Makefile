# Needs Python 3.11 or newer with venv, make, and a C compiler where a package has no wheel.
# `make help` lists the targets and variables: it prints the comments that begin with two hashes.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
BIN := $(VENV)/bin
ROOT := $(CURDIR)

# The first interpreter that is new enough, has venv and really starts (a version manager may
# leave names on the path that do not). Asked for only when a rule needs it.
ifeq ($(origin PYTHON),undefined)
PYTHON = $(eval PYTHON := $$(shell for python in python3.13 python3.12 python3.11 python3 python3.14; \
	do if $$$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1; then echo $$$$python; break; fi; done))$(PYTHON)
endif

# The second name is the one that newer versions of pip read for the packages that build ours.
PIP := PIP_CONSTRAINT=$(ROOT)/constraints.txt PIP_BUILD_CONSTRAINT=$(ROOT)/constraints.txt \
	$(BIN)/python -m pip --disable-pip-version-check install --quiet

## TESTS         Files and folders of tests to run, such as tests/engine (default: tests)
TESTS ?= tests
## PYTEST_ARGS   More options for pytest, such as "-x -k upload"
PYTEST_ARGS ?=
## JOBS          Number of processes that share the tests (default: one per logical CPU)
JOBS ?= logical
## SERVE_ARGS    More options for `holdfast serve` of `make run`
SERVE_ARGS ?=
## BENCH_ARGS    More options for `holdfast.bench` of `make bench`
BENCH_ARGS ?=
## SOAK_SECONDS  Minimum length of `make soak` (default: 600)
SOAK_SECONDS ?= 600

CHECKS := check-lint check-types check-security check-layers

.PHONY: run help test-fast test test-long coverage check $(CHECKS) format docs lines bench image soak clean

## make run       Start a server on http://127.0.0.1:5000 with its data in ./data
run: $(VENV)/.run
	$(BIN)/holdfast serve $(SERVE_ARGS)

## make help      List the targets and the variables
help:
	@echo 'Targets:'
	@sed -n 's/^## make/  make/p' Makefile
	@echo 'Variables (make TARGET NAME=VALUE):'
	@sed -n 's/^## \([A-Z]\)/  \1/p' Makefile

# Keeps bytecode even where the environment turns it off: without it, each process that a test
# starts compiles Holdfast again.
RUN_TESTS := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# pyproject.toml has the expression of `make test`; an -m on the command line replaces it.
## make test-fast Run the tests that need no server of their own and little time
test-fast: $(VENV)/.dev
	$(RUN_TESTS) -m "not slow and not soak and not image" $(PYTEST_ARGS) $(TESTS)

## make test      Run all tests, or those in TESTS, except those of make test-long
test: $(VENV)/.dev
	$(RUN_TESTS) $(PYTEST_ARGS) $(TESTS)

## make test-long Run the tests that take very long or need much of the machine: soak and image
test-long: soak image

# Branch coverage of holdfast.engine and holdfast.api; fail_under in pyproject.toml is the gate.
# TESTS=... measures other tests; then --cov-fail-under=0 in PYTEST_ARGS turns the gate off.
## make coverage  Run the tests of the packages and fail if too few branches are covered
coverage: TESTS = tests/engine tests/api tests/cli
# Without the empty value --cov takes the first folder of tests for what to measure.
coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov= $(PYTEST_ARGS) $(TESTS)

# Runs the checks in parallel, one per CPU, and keeps the output of each in one piece.
## make check     Check format, lint, types, security and layers
check: $(VENV)/.dev
	+@$(MAKE) --no-print-directory --jobs=$$(nproc) --output-sync=target $(CHECKS)

check-lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

check-types:
	$(BIN)/mypy

check-security:
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive engine api bench examples

check-layers:
	PYTHONPATH=.dev $(BIN)/lint-imports

## make format    Format the code and fix lint that has an automatic fix
format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

## make docs      Write the tables of docs/ that come from the code
docs: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python tests/support/pages.py

## make lines     Count the lines of code by folder (REVISION counts a commit)
lines:
	@python3 tests/support/lines.py $(REVISION)

## make bench     Run the benchmarks
bench: $(VENV)/.dev
	$(BIN)/python -m holdfast.bench $(BENCH_ARGS)

# Builds the image on a base of this machine's files: it downloads no base image.
## make image     Build and try the container image, and the systemd unit under a systemd of its own
image: $(VENV)/.dev
	$(BIN)/python -m pytest --override-ini=timeout=0 -m image $(PYTEST_ARGS) $(TESTS)

## make soak      Run the long randomized tests
soak: $(VENV)/.dev
	HOLDFAST_SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest --override-ini=timeout=0 \
		--override-ini=faulthandler_timeout=0 -m soak $(PYTEST_ARGS) $(TESTS)

## make clean     Delete everything that make and the tools create, except data
clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache .coverage*
	find engine api bench examples tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Editable installs: only a change of what is installed makes them again.
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[bench,dev,otel]'
	@touch $@ $(VENV)/.run
