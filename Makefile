# lema-local: two commands do everything.
#
#   make quickstart   make .venv, install the pinned dependencies, run the whole loop on embedded problems
#   make test         install what the tests need, run them
#
# Both can be repeated; set-up is skipped while the lock files stay as they are.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
# No multimodal library: a third less to compile. Add flags for a GPU: make quickstart CMAKE_ARGS="-DGGML_CUDA=on"
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF

.PHONY: help quickstart test lint format check lock bench-sample bench-teacher bench-grade bench-train bench-gpu clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.tools-found:
	@$(PYTHON) tools/check_tools.py
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/.tools-found
	@echo "Installing the pinned dependencies (the first time llama.cpp is compiled: about ten minutes on 2 cores)."
	$(PIP) install --quiet --requirement requirements.lock
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(PIP) install --quiet --requirement requirements-dev.lock
	@touch $@

quickstart: $(VENV)/.installed  ## The whole loop on embedded problems: sample, correct, train, export, compare
	@LEMA_HOME="$${LEMA_HOME:-$(CURDIR)/.lema}" $(BIN)/lema quickstart

test: $(VENV)/.installed-dev  ## Run the tests (no network, GPU or key)
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint test  ## What continuous integration runs

lock: $(VENV)/.installed-dev  ## Resolve the ranges of pyproject.toml into the lock files
	$(BIN)/python tools/lock.py

bench-sample: $(VENV)/.installed-dev  ## Speed of sampling, side by side
	$(BIN)/python benchmarks/bench_sample.py

bench-teacher: $(VENV)/.installed-dev  ## Speed of teacher calls, side by side
	$(BIN)/python benchmarks/bench_teacher.py

bench-grade: $(VENV)/.installed-dev  ## Speed of grading answers
	$(BIN)/python benchmarks/bench_grade.py

bench-train: $(VENV)/.installed-dev  ## Speed and memory of training on this machine, side by side
	$(BIN)/python benchmarks/bench_train.py

bench-gpu: $(VENV)/.installed-dev  ## The same on a CUDA card, with models of 1.5 and 7 billion random weights
	$(BIN)/python benchmarks/bench_train.py --gpu

clean:  ## Remove what was installed and cached (runs/ stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
