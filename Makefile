# `make train`, `make test` and `make lab` do all the set-up they need.
# PYTHON picks the interpreter of the new environment (3.11 or 3.12).
PYTHON ?= python3
BIN := .venv/bin
PARAMS ?=
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: train test lint lab demo readme docs clean

train: .venv/ready
	mkdir -p runs
	$(BIN)/papermill nbs/train.ipynb runs/train.ipynb $(PARAMS)

test: .venv/ready
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_test --n_workers 2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check nbs tests docs .ci setup.py
	$(BIN)/mypy

lab: .venv/ready
	$(BIN)/jupyter lab nbs/index.ipynb

# A page to look at: three models of MovieLens 100K, side by side
demo: runs/demo/ready
	$(BIN)/voila nbs/demo.ipynb --Voila.config_file_paths=nbs

runs/demo/ready: | .venv/ready
	for model in itemknn "sasrec epochs=10" "mibert epochs=2"; do \
	  $(BIN)/python -m promptrec.experiments dataset=ml-100k preset=quick out_dir=runs/demo \
	    model=$$model || exit 1; \
	done
	touch runs/demo/ready

readme: .venv/ready
	$(BIN)/python .ci/readme.py

# The site, _docs/html/index.html: notebooks as they are committed, none is run.
docs: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python docs/build.py

# JupyterLab writes its own metadata into every notebook that is opened; what is saved leaves it out.
.venv/ready: requirements.txt setup.py settings.ini
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	mkdir -p .venv/etc/jupyter
	printf '%s\n' 'from nbdev.clean import clean_jupyter' \
	  'c.ContentsManager.pre_save_hook = clean_jupyter' > .venv/etc/jupyter/jupyter_server_config.py
	touch .venv/ready

clean:
	rm -rf .venv runs _docs
