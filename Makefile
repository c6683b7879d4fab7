# `make demo` and `make test` do everything, set-up included; both are quick to run again.
VENV   ?= .venv
PYTHON ?= python3
BIN     = $(VENV)/bin
DEMO   ?= full
PIP     = $(BIN)/pip install --quiet -c constraints.txt

.PHONY: setup setup-ffcv setup-browser demo test test-all lint types clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip setuptools wheel
	$(PIP) torch -e '.[cuda130,remote,cluster,serve,mediapipe,dev]'
	touch $@

# FFCV has no wheel: this installs Debian packages of OpenCV as root, and compiles.
setup-ffcv: setup
	bash tools/setup_ffcv.sh $(BIN)

# A browser for the tests of the page, where it costs no question: Debian's, if this is root already.
setup-browser:
	bash tools/setup_browser.sh

# The main job on data that it makes itself: pack, train the flow's masks, pre-train, fine-tune, evaluate.
demo: setup
	$(BIN)/cclslr demo --size $(DEMO)

test: lint types
	$(BIN)/python -m pytest -n auto

# The tests marked slow as well.
test-all: lint types
	$(BIN)/python -m pytest -n auto -m ''

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

clean:
	rm -rf runs shards/*/ .pytest_cache .mypy_cache .ruff_cache
