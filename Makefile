# make demo   own virtual environment, install, draw scenes, learn, annotate, score
# make test   own virtual environment, install, lint, types, documentation, tests
# make docs   own virtual environment, install, build the documentation in docs/_build
# make bench  own virtual environment, install with the peers, measure this machine: under 20 minutes on 2 cores

PYTHON ?= python3
VENV ?= .venv

# The CUDA generation that the driver serves; cpu where there is no NVIDIA GPU.
EXTRA ?= $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\).*/cuda\1/p' | sed 's/cuda1[4-9]/cuda13/' | grep . || echo cpu)

STAMP := $(VENV)/.installed-$(EXTRA)
TOOLS := $(VENV)/.installed-tools-$(EXTRA)
RUN := $(VENV)/bin

.PHONY: demo test lint types docs bench clean

demo: $(STAMP)
	rm -rf demo
	$(RUN)/gpuannot demo demo --report demo/report.html

# A test module a process at a time; more threads than cores would wait for each other.
test: lint types docs
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(TOOLS)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(TOOLS)
	$(RUN)/mypy

docs: $(TOOLS)
	$(RUN)/python -m sphinx -q -W --keep-going docs docs/_build

bench: $(STAMP)
	$(RUN)/python -m pip install -q -e ".[$(EXTRA),bench]"
	$(RUN)/python -m benchmarks --device auto

$(STAMP): setup.py pyproject.toml requirements-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "gpuannot needs Python 3.11 or newer; make PYTHON=/path/to/python3.11 …"; exit 1; }
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	if [ "$(EXTRA)" = cpu ]; then $(RUN)/python -m pip install -q -r requirements-cpu.txt; fi
	$(RUN)/python -m pip install -q -e ".[$(EXTRA)]"
	touch $@

$(TOOLS): $(STAMP)
	$(RUN)/python -m pip install -q -e ".[$(EXTRA),test,docs]"
	touch $@

clean:
	rm -rf $(VENV) demo build docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache
