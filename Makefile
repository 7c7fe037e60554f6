# Every command a contributor or CI needs: `make` alone lists them.

SHELL := bash
.DEFAULT_GOAL := help

# The interpreter that .venv is made from.
PYTHON ?= python3
VENV ?= .venv
NEWEST_VENV ?= .venv-newest
# More words for pytest, as in: make test PYTEST_ARGS="-k timer"
PYTEST_ARGS ?=
# So many processes share the tests, which are handed out one by one: some take long.
# One more than there are cores, since many wait for a process or a disk.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1) + 1 )))

BIN := $(VENV)/bin
# Folders that a sparse tree lacks are left out, as mypy refuses a missing one.
TYPED := $(wildcard durable migrations tests examples)

# $(call install,venv,extra): the checkout, editable, with one of its extras.
define install
if command -v uv >/dev/null; then \
  uv pip install --quiet --python $(1)/bin/python --editable '.[$(2)]'; \
else \
  $(1)/bin/python -m pip install --quiet --editable '.[$(2)]'; \
fi
endef

# Prints "major minor path" of the newest CPython that can make a venv. Interpreters
# on PATH may be pyenv's shims, which fail for a version that is not switched on, so
# each candidate is tried. Free-threaded builds lack wheels of some dependencies.
define find_newest_python
{ echo $(BIN)/python; \
  compgen -c python3. | grep -E '^python3\.[0-9]+$$' | sort -u || true; \
  if command -v pyenv >/dev/null; then \
    find "$$(pyenv root)/versions" -maxdepth 3 -path '*/bin/python3'; \
  fi; \
} | while read -r candidate; do \
  "$$candidate" -c 'import ensurepip, sys, sysconfig, venv; v = sys.version_info; \
    fit = sys.implementation.name == "cpython" and v.releaselevel == "final"; \
    fit and not sysconfig.get_config_var("Py_GIL_DISABLED") and \
    print(v.major, v.minor, v.micro, sys.executable)' 2>/dev/null || true; \
done | sort -k1,1n -k2,2n -k3,3n | tail -n 1
endef

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

# The stamp holds the path of the checkout: a venv that was moved along with it is of
# no use, because its scripts name the old place.
.PHONY: setup
setup: ## Make .venv and install everything; again only if pyproject.toml changed
	@set -e; \
	stamp=$(VENV)/.installed-for; \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null || \
	    { [ -f $$stamp ] && [ "$$(cat $$stamp)" != "$(CURDIR)" ]; }; then \
	  echo "Making $(VENV) with $(PYTHON)"; \
	  rm -rf $(VENV); \
	  $(PYTHON) -m venv $(VENV); \
	fi; \
	if ! [ $$stamp -nt pyproject.toml ]; then \
	  echo "Installing durable-asyncio[dev] into $(VENV)"; \
	  $(call install,$(VENV),dev); \
	  echo "$(CURDIR)" >$$stamp; \
	fi

.PHONY: format
format: setup ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: lint
lint: setup ## Check format and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.PHONY: types
types: mypy pyright ## mypy --strict over all, pyright strict over durable

.PHONY: mypy
mypy: setup
	$(BIN)/mypy $(TYPED)

.PHONY: pyright
pyright: setup
	$(BIN)/basedpyright --pythonpath $(BIN)/python

.PHONY: imports
imports: setup ## Check that imports point downward
	$(BIN)/lint-imports

.PHONY: check
check: lint types imports ## All of the above; what CI runs

# Without what it keeps compiled, each process of pytest takes a second more to begin.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist load --maxschedchunk 1

.PHONY: test
test: setup ## Run every test, and a share of each long sweep
	$(PYTEST) $(PYTEST_ARGS)

.PHONY: test-all
test-all: setup ## Run every test, and all sweeps in full
	DURABLE_ALL=1 $(PYTEST) $(PYTEST_ARGS)

.PHONY: test-newest
test-newest: setup ## Like `test`, on the newest CPython found here
	@set -e; \
	read -r major minor _ newest < <($(find_newest_python)); \
	version_of='import sys; print(*sys.version_info[:2])'; \
	if [ "$$($(BIN)/python -c "$$version_of")" = "$$major $$minor" ]; then \
	  echo "CPython $$major.$$minor of $(VENV) is the newest here: nothing more to run."; \
	else \
	  if [ "$$($(NEWEST_VENV)/bin/python -c "$$version_of" 2>/dev/null)" \
	      != "$$major $$minor" ]; then \
	    rm -rf $(NEWEST_VENV); \
	  fi; \
	  $(MAKE) --no-print-directory test VENV=$(NEWEST_VENV) PYTHON="$$newest"; \
	fi

.PHONY: demo
demo: setup ## Run the demonstration
	$(BIN)/python examples/demo/run.py

.PHONY: bench
bench: setup ## Measure, beside the libraries of the bench extra
	@$(BIN)/python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("dbos"))' \
	  || { echo "Installing the bench extra"; $(call install,$(VENV),bench); }
	$(BIN)/python -m tests.benchmarks

# For a long run: make chaos DATABASE=postgresql SECONDS=1200 SEED=2
DATABASE ?= sqlite postgresql mariadb
SEED ?= 1
SECONDS ?= 60

.PHONY: chaos
chaos: setup ## Kill, stop and cut off workers and servers, and judge what is left
	@set -e; for database in $(DATABASE); do \
	  $(BIN)/python -m tests.chaos --database $$database --seconds $(SECONDS) \
	    --seed $(SEED) $(CHAOS_ARGS); \
	done

# The wheel is made from the sdist, which so proves to be complete, and is tried in a
# fresh venv outside of the checkout.
.PHONY: build
build: setup ## Build sdist and wheel, and try the installed wheel
	rm -rf dist
	$(BIN)/hatchling build -t sdist -d dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist dist/*.tar.gz
	@set -e; \
	scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(BIN)/python -m venv "$$scratch/venv"; \
	"$$scratch/venv/bin/python" -m pip install --quiet dist/*.whl; \
	cd "$$scratch"; \
	venv/bin/python -c 'import importlib.resources, pathlib, durable; \
	  package = importlib.resources.files(durable); \
	  assert pathlib.Path(str(package)).is_relative_to(pathlib.Path.cwd()), package; \
	  assert (package / "py.typed").is_file(), "no py.typed"; \
	  assert (package / "_migrations" / "env.py").is_file(), "no migrations"'; \
	venv/bin/durable --help >/dev/null; \
	echo "The installed wheel imports and carries its migrations."

.PHONY: clean
clean: ## Remove whatever these targets made
	rm -rf $(VENV) $(NEWEST_VENV) dist .hypothesis .mypy_cache .pytest_cache
	rm -rf .import_linter_cache .ruff_cache
	find durable migrations tests examples benchmarks -name __pycache__ \
	  -prune -exec rm -rf {} + 2>/dev/null || true
