# One command each. `make` creates .venv, installs the pinned dependencies and builds the
# extensions in place; it does nothing where nothing changed. The stamps lie in .venv, so that they
# go when it goes.

VENV := .venv
BIN := $(VENV)/bin
ENVIRONMENT := $(VENV)/environment.stamp
BUILT := $(VENV)/built.stamp
SCHED := $(wildcard _sched/*.pyx _sched/*.pxd)
# AddressSanitizer's library, if the compiler has it; without, it prints the bare name.
ASAN := $(filter /%,$(shell $(CC) -print-file-name=libasan.so))
DEBUG_DIR := build/$(if $(ASAN),debug-asan,debug)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DELETE_ON_ERROR:
.PHONY: build run test lint lint-ruff lint-format lint-types lint-wire bench proto baseline debug clean

build: $(BUILT)

$(ENVIRONMENT): requirements.txt requirements-dev.txt
	@python="$$(packaging/preflight.sh)" || exit 1; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then "$$python" -m venv $(VENV); fi
	@echo "installing the pinned dependencies into $(VENV): a minute or two"
	@$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

# The editable install compiles in place and writes the commands into .venv/bin. It uses the pinned
# Cython and setuptools of .venv rather than whatever an isolated build would fetch today.
$(BUILT): $(ENVIRONMENT) pyproject.toml setup.py $(SCHED)
	@packaging/preflight.sh >/dev/null
	@echo "building the extensions"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# A live view of a small fleet; ARGS=--once ends after the summary.
run: build
	@$(BIN)/python -m brokerctl.demo $(ARGS)

# Everything that is checked. The tests come last, so that their summary is what one sees.
test: lint
	$(BIN)/python -m pytest $(ARGS)

lint: lint-ruff lint-format lint-types lint-wire

lint-ruff: build
	$(BIN)/ruff check .

lint-format: build
	$(BIN)/ruff format --check .

lint-types: build
	$(BIN)/mypy

# proto/README.md says how to move the baseline when a break is meant.
lint-wire: build
	$(BIN)/buf lint proto
	$(BIN)/buf breaking proto --against proto/baseline.binpb

bench: build
	$(BIN)/python -m bench all $(ARGS)

# The generated stubs. tests/tidy compares the committed ones with fresh ones. protoc looks for its
# type plugin on the PATH.
proto: build
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python proto/generate.py

# Only on purpose, with a reason: proto/README.md.
baseline: build
	$(BIN)/buf build proto --as-file-descriptor-set --exclude-source-info -o proto/baseline.binpb

# `_sched` with bounds checks, AddressSanitizer and its O(n) checks after every change, in a folder of
# its own, and the tests that use it against that build. The sanitizer must be there before anything
# allocates, and sees what Python allocates only if it is malloc's; leaks it would report of CPython
# itself. The check before the tests proves that they meet neither the release build nor, by mistake,
# one without the sanitizer.
debug: export PYTHONPATH := $(DEBUG_DIR)/lib
debug: build
	@$(if $(ASAN),,echo "no libasan.so beside $(CC): the debug build goes without AddressSanitizer")
	SCHED_DEBUG=1 SCHED_ASAN=$(if $(ASAN),1,0) $(BIN)/python setup.py --quiet build --build-base $(DEBUG_DIR) --build-lib $(DEBUG_DIR)/lib
	$(DEBUG_RUN) -P -c "$$DEBUG_CHECK"
	$(DEBUG_RUN) -m pytest -o pythonpath="$(DEBUG_DIR)/lib ." tests/property $(ARGS)

DEBUG_RUN = $(if $(ASAN),LD_PRELOAD=$(ASAN) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc )$(BIN)/python
define DEBUG_CHECK
import ctypes, importlib, pathlib
for source in pathlib.Path("_sched").glob("*.pyx"):
    found = importlib.import_module("_sched." + source.stem).__file__
    assert "$(DEBUG_DIR)/lib" in found, found
assert hasattr(ctypes.CDLL(None), "__asan_init") == bool("$(ASAN)"), "the sanitizer is not loaded"
endef
export DEBUG_CHECK

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	rm -f _sched/*.so _sched/*.c _sched/*.html $(BUILT)
	find $(wildcard broker _sched clients tests bench proto) -name __pycache__ -type d -prune -exec rm -rf {} +
