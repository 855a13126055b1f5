# `make demo` and `make test` do all of their set-up on a fresh machine; a second call is quick.
# PYTHON, VENV and TORCH can be overridden: make test TORCH="torch==2.6.0"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# One stamp for each TORCH, so that asking for another one installs it; the demo needs less than the tests.
STAMP := $(subst /,_,$(subst $() $(),_,$(TORCH)))
READY := $(VENV)/.ready-$(STAMP)
DEV := $(VENV)/.dev-$(STAMP)

.PHONY: test demo format clean

test: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto $(PYTEST)

demo: $(READY)
	$(BIN)/isoplast demo

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first and pinned: whatever build of it the index serves or TORCH names (a CPU build saves several
# GB of GPU packages on Linux), nothing installed after it brings another.
$(READY): pyproject.toml
	@echo "Setting up $(VENV): torch and isoplast are installed, which takes a minute or more"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar on "$(TORCH)"
	$(BIN)/python -m pip install "$(TORCH)" -e ".[bench]"
	rm -f $(VENV)/.ready* $(VENV)/.dev*
	touch "$(READY)"

# timm without torchvision, which has to be of torch's own build and which its models and optimizers do not
# need.
$(DEV): $(READY)
	@echo "Setting up $(VENV): the tools and all that the tests are against are installed, some minutes"
	$(BIN)/python -m pip install "$(TORCH)" -e ".[dev]"
	$(BIN)/python -m pip install --no-deps "timm>=1.0.20"
	touch "$(DEV)"

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
