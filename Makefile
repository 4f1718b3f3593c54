# make test    everything that is checked, in an environment of its own
# make demo    from annotated pictures to a fine-tuned detector, in about a minute
# make venv    the environment alone
# make clean   remove what demo and tests have written

VENV ?= .venv
PY := $(VENV)/bin/python
NB := $(PY) -m dino_nb
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MPLBACKEND := Agg
# Threads that wait sleep: spinning, they starve the others wherever processors are shared.
export OMP_WAIT_POLICY ?= passive

.PHONY: venv test demo clean

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
	$(PY) -m pip install --quiet -r requirements.txt -e '.[test]'
	@touch $@

# Notebooks run in a copy of their folder, where what they write is not in the way.
test: venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest tests
	rm -rf build/notebooks && mkdir -p build && cp -r notebooks build/notebooks
	$(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 build/notebooks/*.ipynb

# Nothing is downloaded: the sample is drawn, and dino-tiny comes with the package.
demo: venv
	rm -rf demo
	$(PY) -c "from dino_nb.prepare.sample import make_sample; make_sample('demo/sample', 96, 24, format='voc')"
	$(NB) convert demo/sample demo/coco
	$(NB) check demo/coco
	$(NB) eval demo/coco dino-tiny --output_dir demo/before
	$(NB) train demo/coco --pretrain_model_path dino-tiny --preset tiny-finetune --output_dir demo/training
	$(NB) eval demo/coco demo/training/checkpoint_best.pth --output_dir demo/after
	$(NB) predict demo/training/checkpoint_best.pth demo/coco/val2017 --output_dir demo/predictions
	@echo
	@echo "The annotated pictures are in demo/predictions, the report is demo/after/report.html,"
	@echo "the curves are demo/training/curves.png, and the detector is demo/training/checkpoint_best.pth."

clean:
	rm -rf demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find dino_nb tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
