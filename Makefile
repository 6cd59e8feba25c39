# `make demo` and `make test` each do everything on a fresh machine: environment, install, work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2  # test processes: each takes a core and 2 GB

.PHONY: demo test lint docs clean help

help:
	@echo "make demo   simulate a plate, embed, profile and evaluate it (about 3 minutes after the install)"
	@echo "make test   lint and the whole test suite"
	@echo "make lint   ruff, formatting, mypy"
	@echo "make docs   the documentation as a site in site/, to read without a network"
	@echo "make .venv  the virtual environment alone"

.venv: $(STAMP)

$(STAMP): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' \
	  || { echo "unidino_fast needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing (torch with its CUDA libraries is about 6 GB, a few minutes)"
	$(BIN)/python -m pip install --quiet --progress-bar off -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/unidino-fast demo --out demo

test: lint
	$(BIN)/python -m pytest -q --numprocesses $(JOBS) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "open site/index.html"

clean:
	rm -rf $(VENV) build dist *.egg-info demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis
