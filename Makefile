# Everything is relative and nothing runs by a script of .venv/bin, so that a path with spaces does no harm.
.DEFAULT_GOAL := help
.PHONY: run test sweep fuzz e2e check schema bench soak docs dashboard contract graphiql dist lock clean help
SHELL := /bin/sh
MAKEFLAGS += --no-builtin-rules

PORT ?= 8000
ARGS ?=
MINUTES ?= 20
CASES ?= 50000
SEED ?= 1
PYTHON ?=
RUN := .venv/bin/python -m
PIP := $(RUN) pip --disable-pip-version-check install --quiet
LOCK := $(RUN) uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

# The development chain is a development dependency.
run: $(if $(findstring --chain,$(ARGS)),.venv/installed-dev,.venv/installed) ## Start Escrowgrid with its own database and demo data: PORT=8000 ARGS="--memory --no-demo --chain"
	@exec $(RUN) app.cli dev --port $(PORT) $(ARGS)

# Side by side first; then, one at a time, what measures time or memory. 5: nothing was chosen there.
test: .venv/installed-dev ## Run the tests: ARGS="-k ledger"
	@$(RUN) pytest -m "not browser and not alone" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS) || test $$? = 5
	@$(RUN) pytest -m alone $(ARGS) || test $$? = 5

sweep: .venv/installed-dev ## Ask every role at every field, filter and stream for what is another's (a quarter of an hour)
	@SWEEP=full exec $(RUN) pytest -m sweep --timeout 1800 $(ARGS)

fuzz: .venv/installed-dev ## Send the HTTP and WebSocket front doors CASES=50000 requests and as many frames of nonsense: SEED=1
	@FUZZ_CASES=$(CASES) FUZZ_SEED=$(SEED) exec $(RUN) pytest tests/limits/test_fuzz.py -s $(ARGS)

e2e: .venv/installed-dev ## Run the tests that drive a real Chromium (installed by apt where that is allowed)
	@command -v chromium chromium-browser google-chrome >/dev/null || test -n "$$CHROMIUM" || \
		{ test "$$(id -u)" = 0 && apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy chromium; } || \
		{ echo "These tests need Chromium: apt install chromium, or name one: CHROMIUM=/path/to/it make e2e" >&2; exit 1; }
	@exec $(RUN) pytest -m browser $(ARGS)

check: .venv/installed-dev ## Format, lint, types, import directions, and whether schema.graphql has drifted
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	.venv/bin/python -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	$(RUN) app.cli schema --check

schema: .venv/installed ## Write schema.graphql
	$(RUN) app.cli schema

bench: .venv/installed-dev ## Measure what pages, writes and fan-out cost on this machine: ARGS="--only nested"
	$(RUN) benchmarks $(ARGS)

soak: .venv/installed-dev ## Put every promise of the ledger to it for so long, then tell the counts: MINUTES=20
	@exec $(RUN) tests.reliability.soak --minutes $(MINUTES)

docs: .venv/installed-dev ## Write the reference anew and build the documentation as a site, in build/site
	$(RUN) tests.docs.reference
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet

dashboard: ## Build the dashboard anew (needs Node 20.19 or newer); the result is checked in
	cd frontend-examples/dashboard && npm ci --no-audit --no-fund && npm run build

contract: .venv/installed-dev ## Compile the contract: writes contracts/anchor.json
	$(RUN) contracts

graphiql: ## Build the GraphiQL page anew (needs Node 20.19 or newer); the result is checked in
	cd app/http/graphiql/source && npm ci --no-audit --no-fund && npx vite build

# Built from a copy in which the migrations are inside of the package, where an installed one looks for them.
dist: .venv/installed ## Make one wheel with everything inside, in dist/; nothing but Python is needed to run it
	@rm -rf build/wheel && mkdir -p build/wheel dist
	@cp -R pyproject.toml README.md app build/wheel/ && rm -rf build/wheel/app/http/graphiql/source
	@cp -R migrations build/wheel/app/migrations && find build/wheel -name __pycache__ -prune -exec rm -rf {} +
	@cd build/wheel && ../../.venv/bin/python -c \
		'from setuptools import build_meta; build_meta.build_wheel("../../dist")' >/dev/null
	@ls dist/*.whl

lock: .venv/installed-dev ## Write both lock files from pyproject.toml: ARGS=--upgrade for newer versions
	echo setuptools | $(LOCK) - $(ARGS) --output-file requirements.lock
	$(LOCK) $(ARGS) --extra dev --constraints requirements.lock --output-file requirements-dev.lock

clean: ## Remove .venv, caches and builds; the database in .escrowgrid stays
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## Tell what there is
	@sed -n 's/^\([a-z0-9]*\):.*## /\1	/p' Makefile | awk -F '\t' '{ printf "make %-9s %s\n", $$1, $$2 }'

# setuptools is in the lock, so that the project itself is installed without fetching anything that has no hash.
.venv/installed: requirements.lock pyproject.toml .venv/made
	@echo "Installing what requirements.lock lists into .venv ..."
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/installed-dev: requirements-dev.lock pyproject.toml .venv/made
	@echo "Installing what requirements-dev.lock lists into .venv ..."
	@$(PIP) --require-hashes -r requirements-dev.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch .venv/installed $@

.venv/made:
	@set -e; found=; bare=; \
	if .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
		{ $(RUN) pip --version || $(RUN) ensurepip; } >/dev/null 2>&1; then touch $@; exit 0; fi; \
	for python in "$(PYTHON)" python3 python3.14 python3.13 python3.12 python3.11; do \
		test -n "$$python" || continue; \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || { bare="$$bare $$python"; continue; }; \
		found="$$python"; break; \
	done; \
	if test -z "$$found" && test -n "$$bare"; then \
		echo "$${bare# }: cannot make a virtual environment, because venv and ensurepip are not installed." >&2; \
		echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
	fi; \
	if test -z "$$found"; then \
		echo "Escrowgrid needs Python 3.11 or newer, and no such python3 is on the PATH." >&2; \
		echo "On Debian and Ubuntu: apt install python3 python3-venv; on macOS: brew install python." >&2; \
		echo "Or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	rm -rf .venv; "$$found" -m venv .venv || { rm -rf .venv; exit 1; }; \
	touch $@
