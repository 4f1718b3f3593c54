# make demo          from drawn images to a fine-tuned detector and a page that shows it, in three minutes
# make test          everything that is checked, in an environment of its own
# make quick         the tests worth running while editing, in a little over a minute
# make test-browser  the notebooks in JupyterLab in a real browser (installs Chromium where it can)
# make venv          the environment alone
# make clean         remove what demo and tests have written

SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
WORKERS ?= 2
# An index with CPU builds of PyTorch, to be used where there is no GPU; if it is empty, the usual build is installed.
TORCH_CPU_INDEX ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MPLBACKEND := Agg
# One thread per process: tests run side by side, and their networks are small. Threads that wait sleep: spinning, they
# starve the others wherever processors are shared.
export OMP_WAIT_POLICY ?= passive

.PHONY: venv lint quick test test-browser demo clean

venv: $(VENV)/.installed

# Installed again only when what is to be installed has changed; an editable install follows the sources by itself.
$(VENV)/.installed: requirements.txt pyproject.toml $(wildcard setup.py)
	@if [ ! -x $(PY) ]; then \
	  for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	      $$python -m venv $(VENV) && exit; \
	    fi; \
	  done; \
	  echo "make: no python3 of at least 3.10 with the venv module is on the PATH" >&2; exit 1; \
	fi
	@if [ -n "$(TORCH_CPU_INDEX)" ] && ! nvidia-smi >/dev/null 2>&1 && ! $(PY) -c 'import torch' 2>/dev/null; then \
	  echo "Installing PyTorch for the CPU, since there is no NVIDIA GPU: 200 MB ..."; \
	  $(PY) -m pip install --quiet --retries 0 --timeout 15 --index-url $(TORCH_CPU_INDEX) torch torchvision \
	    || echo "No CPU build could be downloaded from $(TORCH_CPU_INDEX): the usual one is installed."; \
	fi
	@echo "Installing the package and what it needs into $(VENV) (with PyTorch, if it is not there: several GB, some minutes) ..."
	@set -o pipefail; $(PY) -m pip install -r requirements.txt -e '.[test]' \
	  | { grep --line-buffered -E '^ *(Downloading|Building|Installing|Successfully)' || true; }
	@touch $@

lint: venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy dino_nb

quick: venv
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --quick tests --ignore tests/browser

# Notebooks run in a copy of their folder, where what they write is in nobody's way, beside the other tests.
test: lint
	rm -rf build/notebooks && mkdir -p build && cp -r notebooks build/notebooks
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=600 build/notebooks tests --ignore tests/browser

test-browser: venv
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
	  || { apt-get update -q && apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core; } \
	  || { echo "make: Chromium is not there and cannot be installed: install it by hand" >&2; exit 1; }
	$(PY) -m pip install --quiet -e '.[browser]'
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/browser

# Nothing is downloaded: the sample is drawn, and dino-tiny comes with the package.
demo: venv
	@$(PY) -m tests.demo demo

clean:
	rm -rf demo build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find dino_nb tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
