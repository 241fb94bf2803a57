# Everything starts here: `make help`. Works on a bare Debian or Ubuntu with git, make and Python 3.11+.
.DEFAULT_GOAL := help
.PHONY: help install demo demo-measures test test-lowest test-slow test-slurm test-slurm-accounting test-browser gpu-check lint format types check benchmarks clean

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# The mark is renewed whenever the dependencies change.
READY := $(VENV)/.ready

help: ## this list
	@grep -E '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F':.*?## ' '{printf "  make %-22s %s\n", $$1, $$2}'

install: $(READY) ## virtual environment in .venv with everything, tests' tools included

$(READY): setup.cfg setup.py pyproject.toml scripts/install.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh scripts/install.sh
	@touch $(READY)

demo: $(READY) ## the main job on embedded images: does BN-tuning predict fine-tuning better than a linear probe?
	@$(PY) scripts/demo.py

demo-measures: $(READY) ## the demo's encoders judged by measures of frozen features: which of them predict fine-tuning?
	@$(PY) scripts/demo.py --measures

# Processes side by side, each with one thread: many threads on few cores wait for each other. Without
# compiled files every process would compile the whole project again.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test: $(READY) ## the test suite, but for what takes minutes
	$(PYTEST) -m "not slow"

test-lowest: ## the same with the lowest versions that setup.cfg names, in an environment of its own
	@UV_RESOLUTION=lowest-direct $(MAKE) test VENV=.venv-lowest

test-slow: $(READY) ## published recipes at their published widths, long trainings by one and two processes
	$(PYTEST) -m slow

test-slurm: $(READY) ## the tests that need SLURM, on two nodes that live as long as they do
	@sh scripts/install_slurm.sh
	$(PYTEST) tests/slurm

test-slurm-accounting: $(READY) ## the same on a cluster with accounting, and the tests of sacct
	@sh scripts/install_slurm.sh --accounting
	$(PYTEST) tests/slurm --accounting

test-browser: $(READY) ## the tests of the report in a browser without a window, which is installed if missing
	@sh scripts/install_browser.sh
	$(PYTEST) tests/browser

gpu-check: $(READY) ## methods, NCCL, compile, resuming, features and speed on one GPU (four minutes)
	$(PY) scripts/gpu_check.py --device cuda
	$(PY) benchmarks/pretraining_steps.py --device cuda --precision bf16 --model resnet18 --batch-size 1024 \
	  --methods simclr,byol,moco_v2 model.stem=cifar model.preprocessing.size=32 model.preprocessing.resize=32

lint: $(READY) ## ruff, codespell
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell

format: $(READY) ## let ruff rewrite
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(READY) ## mypy --strict
	$(VENV)/bin/mypy

check: lint types test test-slow ## what CI runs, but for SLURM

benchmarks: $(READY) ## speed beside what users would use otherwise (several minutes)
	$(PY) benchmarks/head_bank.py
	$(PY) benchmarks/logistic_regression.py
	$(PY) benchmarks/finished_sweep.py
	$(PY) benchmarks/submission.py
	$(PY) benchmarks/short_runs.py
	$(PY) benchmarks/losses.py
	$(PY) benchmarks/pretraining_steps.py

clean: ## remove caches, not results
	rm -rf .mypy_cache .ruff_cache .pytest_cache build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './.venv-lowest/*' -prune -exec rm -rf {} +
