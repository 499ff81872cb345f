# make demo: train a language model on the bundled story for three minutes.   make test: run all tests.
# Both create .venv first. They need Python 3.11 or newer, and nothing else.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
MINUTES ?= 3
JOBS ?= 2
BIN := .venv/bin

.PHONY: demo test lint check coverage docs man bench torture torture-all torture-large gpu interop wheel clean

demo: .venv/ready
	$(BIN)/lucidlm train --minutes $(MINUTES)

test: .venv/ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

lint: .venv/ready-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check lucidlm benchmarks examples --extra-search-path tests

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not slow and not torture and not interop and not gpu"

coverage: .venv/ready-check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not slow and not torture and not interop and not gpu" --cov --cov-report=term

docs: .venv/ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html in a browser"

man: .venv/ready
	@mkdir -p build
	$(BIN)/lucidlm --man > build/lucidlm.1
	@echo "man ./build/lucidlm.1 shows it"

bench: .venv-bench/ready  # make bench TEXT=tinyshakespeare.txt ONLY="step small": about a quarter of an hour
	.venv-bench/bin/python benchmarks/peers.py $(if $(TEXT),--text $(TEXT)) $(if $(ONLY),--only $(ONLY))

torture: .venv/ready-test  # the criteria of tests/torture.toml, into docs/numbers.md: about half an hour
	$(BIN)/python benchmarks/torture.py --jobs $(JOBS)

torture-all: .venv/ready-test  # every long test, also of formats, weights and the server: hours
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m torture --timeout 3600 -n $(JOBS)

torture-large: .venv/ready-test  # 10 GB are made and prepared: needs 40 GB of disk, and an hour or two
	$(BIN)/python benchmarks/preparing.py --gigabytes 10 --check

gpu: .venv/ready-test  # what needs a GPU: tests, then speed and memory; about five minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/gpu.py

# A virtual machine may refuse instructions that its CPU announces: without these flags llama.cpp can end with
# SIGILL. For the same reason pip must not take a build from its cache.
interop: export CMAKE_ARGS ?= -DGGML_NATIVE=OFF -DGGML_AVX512=OFF
interop: .venv/ready-test  # compiles llama.cpp, about five minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir -c constraints.txt -e ".[test,interop]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m interop --timeout 600

wheel: .venv/ready-test
	$(BIN)/python -m build

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found. Install one, or run: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Creating .venv with $(PYTHON). PyTorch is about 200 MB: this takes one to five minutes."
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

# The programs that ours is compared with want older versions than ours of what both use, and far more than their
# models need. So they are installed without what they ask for, in an environment of their own.
.venv-bench/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found. Install one, or run: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Creating .venv-bench with $(PYTHON), with the other programs: one to five minutes."
	$(PYTHON) -m venv --clear .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llms-from-scratch litgpt
	@touch $@

.venv/ready-docs: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

clean:
	rm -rf .venv .venv-bench dist build site
