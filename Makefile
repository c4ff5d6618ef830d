# capsnb: `make book` and `make test` set everything up by themselves; `make help` lists the rest.
# Kept to what GNU make 3.81 and a POSIX shell understand, so that macOS needs nothing more.

# The first Python on the path that is new enough (macOS ships an old python3 beside which a newer one is often installed).
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  "$$p" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $$p && exit; done; echo python3)
VENV ?= .venv
# uv installs several packages at once; pip does where uv cannot reach a package index, or is not allowed to.
INSTALLER ?= uv
LATEST ?=
# Named once, it stays with the environment, so that a later lock does not bring the CUDA libraries in.
TORCH_INDEX ?= $(shell cat "$(VENV)/torch-index" 2>/dev/null)
STUDIES ?= depth collapse routings optimizers head-ablation
WORKERS ?= 2
PYTEST_ARGS ?=
MINUTES ?= 4
GPU_ARGS ?=

# Recipes run in make's own shell with paths relative to the repository: names with spaces above it do no harm.
BIN = $(VENV)/bin
LOCK = requirements.lock
# A stamp for each of the two sets of versions: `make` comes back to the lock after `make setup LATEST=1`.
READY = $(VENV)/$(if $(LATEST),.latest,.locked)
INSTALL = $(if $(filter pip,$(INSTALLER)),$(PIP) --no-compile,"$(BIN)/uv" pip install --quiet --python "$(BIN)/python")
INDEX = $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)" $(if $(filter uv,$(INSTALLER)),--index-strategy unsafe-best-match))
PIP = "$(BIN)/python" -m pip install --quiet --disable-pip-version-check
CHAPTERS = $(BIN)/python tools/chapters.py
# Every run of the tests hides the GPU. Where there is one, the tests that are meant for it run at the end, by themselves;
# that PYTEST_ARGS choose none of them (status 5) is no failure.
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal
GPU = import sys, torch; sys.exit(not torch.cuda.is_available())
PYTEST_GPU = if $(BIN)/python -c '$(GPU)'; then $(BIN)/python -m pytest $(PYTEST_ARGS) -m gpu || [ $$? -eq 5 ]; fi

# Packages are installed without bytecode, and Python writes what it imports at the first import (half of the set-up's
# work otherwise, for modules that nobody imports). A shell that forbids this would compile them in every process.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup lock book bundle test test-quick test-all lab chapter chapters measure gpu lint format clean distclean

help: ## list the commands
	@echo "make COMMAND, where COMMAND is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make the virtual environment with the versions of requirements.lock; LATEST=1: the newest

lock: ## write requirements.lock for pyproject.toml, keeping versions that still fit; LATEST=1: the newest
	@test -x "$(BIN)/uv" || $(MAKE) --no-print-directory setup INSTALLER=uv
	@"$(BIN)/uv" pip compile pyproject.toml --extra all --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --quiet $(if $(LATEST),--upgrade) --custom-compile-command "make lock" --output-file $(LOCK)

$(READY): pyproject.toml $(LOCK)
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "capsnb: no '$(PYTHON)' here. Install Python 3.11 or later, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' || { \
	  echo "capsnb needs Python 3.11 or later; '$(PYTHON)' is `"$(PYTHON)" -V 2>&1`. Name a newer one: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' >/dev/null 2>&1 || { \
	  echo "capsnb: '$(PYTHON)' cannot make virtual environments (venv or ensurepip is missing)."; \
	  echo "On Debian or Ubuntu: apt-get install python3-venv; elsewhere install the full Python, then run make again."; exit 1; }
	@"$(BIN)/python" -m pip --version >/dev/null 2>&1 || { echo "capsnb: making $(VENV) ..."; "$(PYTHON)" -m venv "$(VENV)"; }
	@echo "capsnb: installing the package and its tools (the first time this downloads some gigabytes) ..."
	@rm -f "$(VENV)/.locked" "$(VENV)/.latest"
ifneq ($(INSTALLER),pip)
	@sed -n '/^uv==/,/[^\]$$/p' $(LOCK) > "$(VENV)/uv.txt"
	@$(PIP) --require-hashes --requirement "$(VENV)/uv.txt"
endif
ifneq ($(LATEST),)
	@$(INSTALL) --upgrade $(INDEX) --editable ".[all]"
else ifneq ($(TORCH_INDEX),)
# CPU-only wheels have other hashes and need no CUDA libraries: here the lock gives the versions alone.
	@sed -n 's/ \\$$//; /^[a-z]/p' $(LOCK) > "$(VENV)/constraints.txt"
	@$(INSTALL) $(INDEX) --constraint "$(VENV)/constraints.txt" --editable ".[all]"
else
	@$(INSTALL) --no-deps --require-hashes --requirement $(LOCK)
	@$(INSTALL) --no-deps --no-build-isolation --editable .
endif
	@echo "$(TORCH_INDEX)" > "$(VENV)/torch-index"
	@touch $(READY)

book: $(READY) ## build the book: _build/html/index.html
	@$(BIN)/python tools/build_book.py

bundle: book ## one zip to read and run without a network: _build/capsnb-book.zip
	@$(BIN)/python tools/bundle.py

test: $(READY) ## units, doctests, each chapter once, each built page in a browser
	@$(PYTEST) -m "not all_looks and not older_pytorch" $(PYTEST_ARGS)
	@$(PYTEST_GPU)

test-quick: $(READY) ## units and doctests
	@$(PYTEST) -m "not book" $(PYTEST_ARGS)
	@$(PYTEST_GPU)

test-all: $(READY) ## also each page in every look, and chapters beside an older PyTorch (downloads 3 GB)
	@CAPSNB_LONE="$${CAPSNB_LONE:-_build/lone}" $(PYTEST) $(PYTEST_ARGS)
	@$(PYTEST_GPU)

lab: $(READY) ## open the chapters in JupyterLab
	@$(BIN)/jupyter lab book

chapter: $(READY) ## execute one chapter in place and measure it: make chapter N=03
	@test -n "$(N)" || { echo "Which chapter? make chapter N=03"; exit 1; }
	@$(CHAPTERS) run $(N)

chapters: $(READY) ## execute every chapter in place and measure it
	@$(CHAPTERS) run

measure: $(READY) ## measure what depth costs, and train the studies that have no results yet (hours without a GPU)
	@$(BIN)/capsnb bench depth
	@$(BIN)/capsnb bench gradients
	@$(BIN)/capsnb reproduce table4
	@for study in $(STUDIES); do $(BIN)/capsnb reproduce $$study --workers $(WORKERS) || exit 1; done

gpu: $(READY) ## measure what a GPU does with all of it, beside the goals: make gpu MINUTES=4 GPU_ARGS="--device cpu"
	@$(BIN)/python tools/gpu.py --minutes $(MINUTES) $(GPU_ARGS)

lint: $(READY) ## ruff (with the notebooks) and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## let ruff put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove what was built (the virtual environment stays)
	@rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis dist

distclean: clean ## remove the virtual environment as well
	@rm -rf "$(VENV)"
