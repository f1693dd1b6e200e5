# Two commands to start with: make sweep, make test. Each makes .venv when it is missing or old.
#   TORCH_INDEX_URL  where another torch build comes from (the CPU or a CUDA wheel index);
#                    see "Start locally" on pytorch.org for the address
#   PYTHON           the interpreter that makes .venv (3.11 or later)
#   ARGS             further words for the sweep: make sweep ARGS="--trials 16 loss.scale=32"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: sweep test test-slow lint install detect clean

sweep: install
	$(BIN)/python sweeps/uniface_margin.py --trials 8 --confirm 1 $(ARGS)

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope

test-slow: install
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadscope

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python %d.%d found, 3.11 or later is needed: make PYTHON=python3.12" % v[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		$(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# The face detector's weights. Without its dependencies: they pin versions that are too old.
detect: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps facenet-pytorch==2.6.0

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
