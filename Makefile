# `make train` and `make test` do all the set-up they need. PYTHON picks the interpreter of the new environment (3.11 or 3.12).
PYTHON ?= python3
BIN := .venv/bin
PARAMS ?=
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: train test readme clean

train: .venv/ready
	mkdir -p runs
	$(BIN)/papermill nbs/train.ipynb runs/train.ipynb $(PARAMS)

test: .venv/ready
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_test --n_workers 2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

readme: .venv/ready
	$(BIN)/python .ci/readme.py

.venv/ready: requirements.txt setup.py settings.ini
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch .venv/ready

clean:
	rm -rf .venv runs
