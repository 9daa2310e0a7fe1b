# Two commands: `make up` runs a mesh, `make test` tests it. Python 3.11+, git and make are enough; uv is used if there.
SHELL := /bin/sh
SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
# The first one that is new enough; `make PYTHON=/path/to/python setup` names another, `make UV= setup` avoids uv.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$python -c '$(SUITABLE)' 2>/dev/null && { echo $$python; break; }; done)
# What is checked: a file that somebody writes beside these folders, as the tutorial has them do, is theirs.
FOLDERS := bench docs gateway mesh services tests
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
REQUIREMENTS := requirements.txt requirements-dev.txt
UV := $(shell command -v uv 2>/dev/null)
# Hundreds of processes are started here, and each would compile what it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup up examples test collected chaos soak bench check requirements clean

help: ## Show this.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(STAMP) ## Create .venv and install everything, pinned and hashed.

define install_with_uv
{ $(BIN)/python -c '$(SUITABLE)' 2>/dev/null || { rm -rf $(VENV); $(UV) venv --quiet --python '$(or $(PYTHON),>=3.11)' $(VENV); }; } && \
$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes $(addprefix -r ,$(REQUIREMENTS)) && \
$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --reinstall $(EDITABLE)
endef

define install_with_pip
if [ -z '$(PYTHON)' ]; then \
	echo 'error: no Python 3.11 or later was found; install one, or name it: make PYTHON=/path/to/python setup' >&2; exit 1; \
fi; \
{ $(BIN)/python -c '$(SUITABLE)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1 || \
$(PYTHON) -m venv --clear $(VENV) || { \
	echo 'error: $(PYTHON) -m venv failed; install the venv module (Debian, Ubuntu: python3-venv) or uv' >&2; exit 1; \
}; \
$(PIP) --require-hashes $(addprefix -r ,$(REQUIREMENTS)) && $(PIP) --no-deps --no-build-isolation $(EDITABLE)
endef
# As a path in a .pth file: type checkers and editors do not follow the import hook that is the default.
EDITABLE := --config-settings editable_mode=compat -e .
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

define refuse_an_old_python
if [ -n '$(PYTHON)' ] && $(PYTHON) -c pass 2>/dev/null && ! $(PYTHON) -c '$(SUITABLE)'; then \
	echo 'error: $(PYTHON) is too old: Python 3.11 or later is needed; name one: make PYTHON=/path/to/python setup' >&2; exit 1; \
fi
endef

$(STAMP): $(REQUIREMENTS) pyproject.toml
	@$(refuse_an_old_python)
	@echo 'installing into $(VENV) ...'
ifeq ($(UV),)
	@$(install_with_pip)
else
	@{ $(install_with_uv); } || { echo 'note: uv could not do it; trying pip' >&2; $(install_with_pip); }
endif
	@touch $(STAMP)

up: setup ## Run NATS, the gateway and the example services until Ctrl-C.
	@exec $(BIN)/mesh up

examples: setup ## Install and build the example services in JavaScript and Go, where Node and Go are there.
	@if command -v npm >/dev/null; then cd services/javascript && npm install --no-package-lock --ignore-scripts \
		--no-audit --no-fund --loglevel=error; else echo 'left out: JavaScript (needs Node and npm)'; fi
	@if command -v go >/dev/null; then mkdir -p build && cd services/go/facts && go build -o ../../../build/facts .; \
		else echo 'left out: Go (needs go)'; fi

test: setup ## Run every check and the whole suite.
	@$(MAKE) --no-print-directory --jobs 2 check collected
	@$(BIN)/python -m pytest -n 4 --dist worksteal

chaos: setup ## Run the failure suite in full and print its figures.
	@$(BIN)/python -m pytest --chaos full -p no:cacheprovider tests/chaos tests/failures tests/gateway/test_handover.py tests/gateway/test_pipelines.py tests/gateway/test_stream_load.py

soak: setup ## Ten minutes of faults under load; memory, tasks and descriptors must not grow.
	@$(BIN)/python -m pytest --soak 600 -p no:cacheprovider tests/chaos/test_soak.py

# Compiles what the tests import, while the type checker keeps one processor busy: in a fresh clone each of four workers
# would compile all of it. What is wrong with the tests is said when they run.
collected: setup
	@$(BIN)/python -m pytest --collect-only -qq >/dev/null 2>&1 || true

bench: setup ## Measure this project beside its peers (takes a quarter of an hour; better with wrk).
	@$(BIN)/python -m bench --page docs/performance.md

check: setup ## Run the linters and the type checker.
	@$(BIN)/ruff check $(FOLDERS)
	@$(BIN)/ruff format --check --quiet $(FOLDERS)
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >$(VENV)/imports.txt 2>&1 || { cat $(VENV)/imports.txt; exit 1; }

requirements: ## Pin the requirements anew (needs uv).
	@test -n "$(UV)" || { echo "error: this needs uv: python3 -m pip install uv" >&2; exit 1; }
	$(UV) pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --extra embedded --extra services --extra wsgi --extra bridge -o requirements.txt pyproject.toml
	$(UV) pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --group dev -c requirements.txt -o requirements-dev.txt pyproject.toml

clean: ## Remove everything that was installed or built.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
