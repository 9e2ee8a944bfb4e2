# make demo | test | slow | lint | docs | clean.  PYTHON: which interpreter makes the environment; VENV: where it lies.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
DEMO := runs/demo

.PHONY: demo test slow lint docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	rm -rf $(DEMO)
	$(BIN)/lowerbound train vae --data digits --epochs 400 --out $(DEMO)
	$(BIN)/lowerbound evaluate $(DEMO) --measure elbo --measure iwae-1000
	$(BIN)/lowerbound report $(DEMO)

# One process a core, each with one thread: small tensors gain nothing from more.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# site/index.html opens from the folder; only the search wants a server.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html; with search: $(BIN)/python -m http.server --directory site"

clean:
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The empty files .demo and .dev in the environment tell which set of packages it holds.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[docs]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit( \
	    "lowerbound needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + ".\n" \
	    "Name a newer one, for example: make $(MAKECMDGOALS) PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
