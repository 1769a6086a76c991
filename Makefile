# One command each, on a machine with only Python 3.11+ and make. Every target that needs it sets up
# .venv first; a second call finds the stamp and is quick.
#   make train ARGS="data=coco trainer.steps=20"      make test ARGS="tests/test_boxes.py -n 0 -x"
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; exit; }; done; echo python3)
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.setup-done
PIP := $(RUN) -m pip --quiet --no-input --disable-pip-version-check
TEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile  # two processes with a thread each
OLD_PYTHON := locus needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow lint format

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with the versions of requirements.txt

$(STAMP): requirements.txt setup.cfg pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo '$(PYTHON) not found. $(OLD_PYTHON)' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1). $(OLD_PYTHON)" >&2; exit 1; }
	@echo "Setting up $(VENV): about 6 GB and some minutes the first time."
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --no-compile -r requirements.txt  # two thirds of all modules are never imported
	@$(PIP) install --no-deps -e .
	@touch $@

train: setup ## run the main job; overrides in ARGS
	$(RUN) -m locus.train $(ARGS)

test: setup ## fast tests: CPU, no network
	$(TEST) $(ARGS)

test-slow: setup ## tests of minutes: learning, resume, the documents' commands
	$(TEST) --no-loadscope-reorder -m "slow and not gpu" $(ARGS)  # in the order of tests/conftest.py

lint: setup ## ruff: rules and format; mypy: types; nothing changed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: setup ## ruff: mend what it can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
