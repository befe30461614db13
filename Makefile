# Everything a checkout needs: the first `make` of any target sets up .venv by itself.
PYTHON ?= python3
QUERY  ?= priority queue

VENV    := .venv
BIN     := $(VENV)/bin
RUNTIME := $(VENV)/.installed
DEV     := $(VENV)/.installed-dev
BENCH   := $(VENV)/.installed-bench
BUILD   := $(VENV)/.installed-dist
WHEELS  := build/wheels/.complete
DEB     := build/deb

SYSTEM_PYTHON := $(shell PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v python3)

.DEFAULT_GOAL := help
.PHONY: help demo test test-services test-systemd test-containers test-fresh check deb dist bench bench-docs screen man catalog stress soak clean

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "make: no $(PYTHON) here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: zpipe needs Python 3.11 or newer, but $(PYTHON) is $$("$(PYTHON)" -V 2>&1);" \
	       "name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# pip compiles what it copies, but not a checkout. Where PYTHONDONTWRITEBYTECODE is set, each start of a daemon would compile it all.
$(RUNTIME): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	$(BIN)/python -m compileall -q zpipe plugins
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/python -m compileall -q zpipe plugins
	@touch $@ $(RUNTIME)

$(BENCH): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@ $(RUNTIME)

$(BUILD): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dist]'
	@touch $@ $(RUNTIME)

demo: $(RUNTIME) ## index the Python standard library into SQLite, then search it (QUERY='...')
	@mkdir -p build && rm -rf build/zpipe-demo
	cd build && ../$(BIN)/zpipe demo -- "$(QUERY)"

check: $(DEV) ## lint, format, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## check, then the tests, two at a time on each core (ZPIPE_TEST_ALL=1: none may be skipped)
	$(BIN)/python -m pytest -n auto --dist worksteal
	@echo "Not among these: make test-services (real services), make test-systemd (units) and make test-containers (images)"

test-services: $(DEV) ## plugins and links against real services, killed and restarted (ZPIPE_TEST_ALL=1: none may be missing)
	$(BIN)/python -m pytest tests/services -n 2 --dist loadfile

# zpipe as a machine's own Python runs it (a unit cannot see one below /root), from wheels, so that no test needs an index.
$(WHEELS): pyproject.toml Makefile
	@[ -n "$(SYSTEM_PYTHON)" ] || { echo "make: test-systemd needs a python3 of the system's, not one below /root" >&2; exit 1; }
	rm -rf build/wheels build/wheels-venv
	"$(SYSTEM_PYTHON)" -m venv build/wheels-venv
	build/wheels-venv/bin/pip wheel --quiet --disable-pip-version-check --wheel-dir build/wheels '.[prometheus]' 'hatchling>=1.27'
	rm -f build/wheels/zpipe_*.whl
	@touch $@

deb: $(DEV) ## a Debian package for this machine's Python, into build/deb (DEB_REVISION=2)
	rm -rf $(DEB)
	packaging/debian/build $(BIN)/python $(DEB)
	@if command -v lintian >/dev/null; then lintian --allow-root --tag-display-limit 0 $(DEB)/*.deb; else echo "make: not checked: there is no lintian here"; fi

dist: $(BUILD) ## wheel and sdist, into dist, and both tried in each Python of this machine (PYTHONS='/usr/bin/python3.13' for some)
	rm -rf dist build/dist
	packaging/dist/build $(BIN)/python dist
	packaging/dist/try dist build/dist $(PYTHONS)

test-systemd: $(DEV) $(WHEELS) deb ## the tests that start and kill units, in a systemd of their own (as root)
	ZPIPE_TEST_SYSTEMD=1 tests/systemd/with-systemd $(BIN)/python -m pytest tests/systemd

test-containers: $(DEV) ## the image and its containers, by podman (as root)
	ZPIPE_TEST_CONTAINERS=1 tests/container/with-podman build/containers $(BIN)/python -m pytest tests/container

test-fresh: ## clone, make demo and make test as somebody who has nothing but Python, git and make (as root; ARGS=--quick)
	tests/fresh/clone-and-test $(ARGS)

bench: $(BENCH) ## zpipe beside what it replaces, one table of ratios (NAMES='N1 N3' for some, ARGS='--quick')
	$(BIN)/python -m benchmarks $(NAMES) $(ARGS)

bench-docs: $(BENCH) ## all benchmarks, and their figures and plots into docs/performance.md
	@mkdir -p build
	$(BIN)/python -m benchmarks --json $(ARGS) >build/bench.json
	$(BIN)/python -m benchmarks.performance_page build/bench.json

screen: $(RUNTIME) ## what the monitor shows of a real run, into the README and docs/monitor.svg
	$(BIN)/python docs/capture.py

man: $(RUNTIME) ## the manual pages, of what --help says, into docs/man
	@mkdir -p docs/man && rm -f docs/man/*.1
	$(BIN)/zpipe man docs/man

catalog: $(RUNTIME) ## the page of the plugins that come with zpipe, plugins/CATALOG.md, of their docstrings and options
	$(BIN)/python plugins/catalog_page.py >plugins/CATALOG.md.new && mv plugins/CATALOG.md.new plugins/CATALOG.md

stress: $(DEV) ## tests that kill, stall and load for minutes
	$(BIN)/python -m pytest -m stress --timeout=1800
	$(BIN)/python -m pytest -m stress --timeout=1800 tests/services

soak: $(DEV) ## tests that run for an hour or more
	$(BIN)/python -m pytest -m soak --timeout=0

clean: ## remove everything made here
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find zpipe plugins tests benchmarks configs -name __pycache__ -type d -prune -exec rm -rf {} +
