# `make demo` and `make test` do everything, set-up included; both are quick to run again.
VENV   ?= .venv
PYTHON ?= python3
BIN     = $(VENV)/bin
DEMO   ?= full

.PHONY: setup demo test lint types clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt tools/setup_ffcv.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade -c constraints.txt pip setuptools wheel
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[cuda130,remote,cluster,dev]'
	bash tools/setup_ffcv.sh $(BIN)
	touch $@

# The main job on data that it makes itself: pack, train the flow's masks, pre-train, fine-tune, evaluate.
demo: setup
	$(BIN)/cclslr demo --size $(DEMO)

test: lint types
	$(BIN)/python -m pytest -n auto

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

clean:
	rm -rf runs shards/*/ .pytest_cache .mypy_cache .ruff_cache
