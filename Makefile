# Needs Python 3.11 or newer with venv, make, and a C compiler where a package has no wheel.
#
#   make run      a server on http://127.0.0.1:5000 with its data in ./data
#   make test     all tests (TESTS=tests/engine narrows them, PYTEST_ARGS adds options, JOBS says
#                 how many processes share them)
#   make check    formatting, lint, types, security and layers
#   make docs     the tables of docs/ that are made from the code
#   make bench    the benchmarks (BENCH_ARGS adds options)
#   make image    builds the container image on a base of this machine's files, and tries it; and
#                 the systemd unit, under a systemd of its own
#   make soak     the long randomized tests (for SOAK_SECONDS at least)
#   make clean    removes all that was made here, but no data

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

TESTS ?= tests
PYTEST_ARGS ?=
JOBS ?= logical
SERVE_ARGS ?=
BENCH_ARGS ?=
SOAK_SECONDS ?= 600

CHECKS := check-lint check-types check-security check-layers

.PHONY: run test check $(CHECKS) format docs bench image soak clean

run: $(VENV)/.run
	$(BIN)/holdfast serve $(SERVE_ARGS)

# Bytecode is kept, whatever the environment says: else each process that a test starts compiles
# anew what it loads of Holdfast.
test: $(VENV)/.dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS) $(TESTS)

# Side by side, as far as there are processors; what each says stays together.
check: $(VENV)/.dev
	+@$(MAKE) --no-print-directory --jobs=$$(nproc) --output-sync=target $(CHECKS)

check-lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

check-types:
	$(BIN)/mypy

check-security:
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive engine api bench

check-layers:
	PYTHONPATH=.dev $(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/python tests/pages_support.py

bench: $(VENV)/.dev
	$(BIN)/python -m holdfast.bench $(BENCH_ARGS)

image: $(VENV)/.dev
	$(BIN)/python -m pytest --override-ini=timeout=0 -m image $(PYTEST_ARGS) $(TESTS)

soak: $(VENV)/.dev
	HOLDFAST_SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest --override-ini=timeout=0 \
		--override-ini=faulthandler_timeout=0 -m soak $(PYTEST_ARGS) $(TESTS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find engine api bench tests -name __pycache__ -type d -prune -exec rm -rf {} +

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
