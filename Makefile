# make demo: a language model from the bundled story in three minutes.   make test: all tests.
# Both set up .venv first; nothing but Python 3.11 or newer has to be there.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
MINUTES ?= 3
JOBS ?= 2
BIN := .venv/bin

.PHONY: demo test lint check bench torture interop wheel clean

demo: .venv/ready
	$(BIN)/lucidlm train --minutes $(MINUTES)

test: .venv/ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

lint: .venv/ready-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check lucidlm

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not slow and not torture and not interop"

bench: .venv/ready-test  # make bench TEXT=a-book.txt
	$(BIN)/python benchmarks/budget.py $(TEXT)

torture: .venv/ready-test
	$(BIN)/python -m pytest -m torture --timeout 3600

# A virtual machine need not allow what its processor announces: without these llama.cpp can end with SIGILL.
# Nor may pip's cache give a build of another kind.
interop: export CMAKE_ARGS ?= -DGGML_NATIVE=OFF -DGGML_AVX512=OFF
interop: .venv/ready-test  # compiles llama.cpp, some five minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir -c constraints.txt -e ".[test,interop]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m interop --timeout 600

wheel: .venv/ready-test
	$(BIN)/python -m build

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and none was found; install it, or: make PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up .venv with $(PYTHON): PyTorch is some 200 MB, this takes a minute or a few"
	$(PYTHON) -m venv .venv

.venv/ready: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/ready-test: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@ .venv/ready

.venv/ready-check: .venv/ready-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,check]"
	@touch $@

clean:
	rm -rf .venv dist build runs
