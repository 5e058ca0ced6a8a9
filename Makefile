# make test | test-fast | train | lint | format | docs | build | wheel | portability | bench | cuda-check | clean: each first sets up .venv/ as far as it is out of date.
# make gpu sets up nothing: it runs in PYTHON as it is.

PYTHON ?= python3
STEPS ?= 2000
MINUTES ?= 8
WORKERS ?= 2
DURATIONS ?= 5
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# the tests start many processes, each of which would compile every module again
unexport PYTHONDONTWRITEBYTECODE
NATIVE := $(wildcard csrc/*.* csrc/*/*.* csrc/*/*/*.*)
# what clang-format sets
CPP = $(NATIVE) $(wildcard benchmarks/*/*.cu tests/native/*.cpp tests/native/*.h)

help:
	@echo "make test    set up .venv and run the tests (WORKERS=$(WORKERS) at a time, DURATIONS=$(DURATIONS) of the slowest shown)"
	@echo "make test-fast  the quick ones of them, in a minute or so"
	@echo "make train   set up .venv and train on scikit-learn's digits into runs/digits (STEPS=$(STEPS); repeat to resume)"
	@echo "make lint    ruff, clang-format and mypy, which change nothing"
	@echo "make format  sets every line as make lint wants it"
	@echo "make docs    write the API reference into build/docs"
	@echo "make build   set up .venv and compile the C++ extension"
	@echo "make wheel   build a wheel into dist/: without CUDA, for Python 3.11 and torch 2.11 and all that follow"
	@echo "make portability  check the CPU's kernels on clang, aarch64 and older x86-64 (needs clang, g++-aarch64-linux-gnu, qemu-user)"
	@echo "make bench   run every benchmark of benchmarks/ops"
	@echo "make cuda-check  compile all CUDA sources for sm_80 to sm_120 without a GPU, and fail if a kernel spills (needs nvcc)"
	@echo "make gpu     prove and measure everything on a CUDA machine, in PYTHON as it is: no .venv, no network (MINUTES=$(MINUTES),"
	@echo "             PARTS=\"build tests\" for some of it)"
	@echo "make clean   remove .venv, build outputs and caches"
	@echo "PYTHON=python3.12 chooses the interpreter (3.11 or newer)"

# torch, and what compiles against it, come first: the package itself is built in this environment, not in an isolated one
$(VENV)/.python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
	  || { echo "fastgan needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c "import venv, ensurepip" 2> /dev/null \
	  || { echo "$(PYTHON) has no venv module (on Debian and Ubuntu: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.packages: $(VENV)/.python constraints.txt pyproject.toml
	$(PIP) install -c constraints.txt torch setuptools ninja
	FASTGAN_SKIP_EXT=1 $(PIP) install --no-build-isolation -c constraints.txt -e ".[dev]"
	@touch $@

# in place and by ninja: only what changed is compiled. Without an extension there is no stamp, and the next call tries again
$(VENV)/.extension: $(VENV)/.packages setup.py $(NATIVE)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@ls fastgan/_C*.so > /dev/null 2>&1 && touch $@ || true

build: $(VENV)/.extension

wheel: $(VENV)/.packages
	FASTGAN_REQUIRE_EXT=1 $(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .

train: build
	$(BIN)/fastgan train --data digits --steps $(STEPS) --out runs/digits $(if $(wildcard runs/digits),--resume)

# tests that set the number of threads run alone, after the others
test: build
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not threads and not long" --durations $(DURATIONS)
	$(BIN)/python -m pytest -q -m "threads and not long" $$(grep -rl --include="test_*.py" set_threads tests)

test-fast: build
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not threads and not slow and not long"

lint: $(VENV)/.packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

format: $(VENV)/.packages
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

docs: build
	$(BIN)/python docs/reference.py

# a quarter of an hour: emulated processors are slow
portability: $(VENV)/.packages
	@for tool in clang++ aarch64-linux-gnu-g++ qemu-aarch64 qemu-x86_64; do command -v $$tool > /dev/null \
	  || { echo "there is no $$tool (on Debian and Ubuntu: apt-get install clang g++-aarch64-linux-gnu qemu-user)"; exit 1; }; done
	$(BIN)/python -m pytest -q -n $(WORKERS) -m long tests/native

bench: build
	for file in benchmarks/ops/[a-z]*.py; do $(BIN)/python -m "benchmarks.ops.$$(basename "$$file" .py)" || exit 1; done

cuda-check: $(VENV)/.packages
	$(BIN)/python tests/project/cuda_check.py

gpu:
	$(PYTHON) -m benchmarks.gpu --minutes $(MINUTES) $(if $(PARTS),--parts $(PARTS))

clean:
	rm -rf $(VENV) build dist *.egg-info fastgan/_C*.so .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help build wheel portability train test test-fast lint format docs bench cuda-check gpu clean
