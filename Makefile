# Everything a newcomer needs: `make quickstart`, `make test`. Another Python: `make test PYTHON=python3.12`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test test-slow test-peers test-compile lint docs format benchmark clean

# A run that is there goes on, or is scored again if it is finished.
quickstart: $(VENV)/.base
	$(BIN)/python -m jaxml train --preset glyphs_simple --workdir runs/quickstart \
		$(if $(wildcard runs/quickstart/config.json),--resume)

test: $(VENV)/.test
	$(PYTEST) -m "not peers and not slow and not compile"

test-slow: $(VENV)/.test
	$(PYTEST) -m "slow and not compile"

test-peers: $(VENV)/.peers
	$(PYTEST) -m "peers and not slow"

# What the compilers of TPU and GPU, which need neither, make of the kernels: see tests/compile. One program of each kind;
# all of them with COMPILED=compile.
COMPILED ?= compile and not slow
test-compile: $(VENV)-compile/.compile
	$(VENV)-compile/bin/python -m pytest tests/compile -m "$(COMPILED)" --numprocesses 2 --dist worksteal

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site of the documentation, into docs/_build; a warning, such as of a link to nothing, is an error.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# On whatever device is there, under ten minutes, into benchmarks/; against PyTorch where `make test-peers` installed it.
benchmark: $(VENV)/.base
	$(BIN)/python -m experiments.benchmarks

# What was installed and built; runs, benchmarks and all other results are the user's.
clean:
	rm -rf $(VENV) $(VENV)-* build docs/_build docs/generated *.egg-info

# A marker file for each set of packages: installed again only when pyproject.toml changes.
$(BIN)/python $(VENV)-compile/bin/python:
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "jaxml needs Python 3.11, 3.12 or 3.13; set PYTHON="'
	$(PYTHON) -m venv $(@D:/bin=)

$(VENV)/.base: pyproject.toml | $(BIN)/python
	$(PIP) -e .
	touch $@

$(VENV)/.test $(VENV)/.lint $(VENV)/.docs: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(PIP) -e .[$*]
	touch $@

# An environment of its own: the compilers are large, and no other test may find an accelerator's plugin.
$(VENV)-compile/.compile: pyproject.toml | $(VENV)-compile/bin/python
	$(VENV)-compile/bin/python -m pip install --quiet --disable-pip-version-check -e .[compile]
	touch $@

# torchvision needs the very torch build it was made for unless its dependencies are left out, and fastreid an old torch;
# of that a single file is run.
$(VENV)/.peers: pyproject.toml Makefile | $(BIN)/python
	$(PIP) -e .[test,peers]
	$(PIP) --no-deps torchvision==0.28.0 fastreid==1.4.0
	touch $@
