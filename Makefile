# Needs Python 3.11 or later, make and the package index. Every target may be run twice, in any order.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench clean

demo: .venv/.embedded
	$(BIN)/fittest demo --out demo-run

test: .venv/.dev
	$(BIN)/python -m pytest

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev
	$(BIN)/python benchmarks/overhead.py

clean:
	rm -rf .venv demo-run build dist

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "fittest needs Python 3.11 or later, found $$($(PYTHON) --version); say make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

# torch goes first, by its exact version: a range would fetch the CUDA build on a machine that has no GPU
.venv/.embedded: .venv/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[embedded]'
	touch $@

.venv/.dev: .venv/.embedded
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[embedded,openai,train,dev]'
	touch $@
