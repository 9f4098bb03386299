# `make help` lists the targets. Nothing but Python >= 3.11, git and make has to be installed.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.requirements-installed

# The stages say `python`; it is the one with the requirements.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro test check pretrain bench full-step clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## create .venv with the pinned requirements

repro: $(STAMP)  ## run what has changed of the pipeline; an interrupted training goes on
	$(RUN) -m dvc repro

test: check  ## set up, then ruff and pytest; the tests run a tiny pipeline end to end

check: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest

pretrain: $(STAMP)  ## make partloc/weights; for a GPU, may be interrupted
	$(RUN) stages/pretrain_depth.py
	$(RUN) stages/pretrain.py
	$(RUN) stages/pretrain_arrangement.py

bench: $(STAMP)  ## figures of speed and memory on a processor, some 8 minutes
	$(RUN) -m pip install --disable-pip-version-check -r benchmarks/requirements.txt
	$(RUN) benchmarks/throughput.py
	$(RUN) benchmarks/frozen.py
	$(RUN) benchmarks/memory.py
	$(RUN) benchmarks/inference.py
	$(RUN) benchmarks/data_path.py
	$(RUN) benchmarks/scale_out.py --samples 120 --turns 2

full-step: $(STAMP)  ## one optimiser step at full size (ViT-B/14, 1024 px): time and memory
	$(RUN) benchmarks/full_step.py

clean:  ## remove .venv, tools' caches and drawn plots; pictures, models and trainings stay
	rm -rf $(VENV) .pytest_cache .ruff_cache dvc_plots
	find partloc stages tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.txt
	@command -v "$(PYTHON)" > /dev/null || { \
	    echo "error: no $(PYTHON); name Python >= 3.11: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: Python >= 3.11 is needed, $(PYTHON) is $$("$(PYTHON)" -V 2>&1);" \
	        "name another one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(RUN) -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@
