# edgellm: `make chat` and `make test` are the two commands; `make help` lists the others.
# Any GNU make from 3.81 on and the tools of Linux or macOS will do.

# The interpreter that .venv is made of: make chat PYTHON=python3.13
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
SETUP = $(PYTHON) tools/setup.py --venv $(VENV)
BENCHMARKS = generation prompt_cache speed memory_model startup convert quantization mlx_rows embedding

# A prompt reaches the model as it was typed, dollar signs and quotes too: it goes through the
# environment, where neither make nor the shell reads it. Only the command line counts, because
# some shells keep a PROMPT of their own in the environment.
CHAT_PROMPT :=
CHAT_MODEL :=
ifeq ($(origin PROMPT),command line)
CHAT_PROMPT := $(value PROMPT)
endif
ifeq ($(origin MODEL),command line)
CHAT_MODEL := $(value MODEL)
endif
export CHAT_PROMPT CHAT_MODEL

.PHONY: help chat setup test test-oracle test-arm64 lint format bench docs clean

help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

chat: ## talk to the default model; PROMPT="..." asks once, MODEL=... takes another model
	@$(SETUP)
	@set --; if [ -n "$$CHAT_MODEL" ]; then set -- --model="$$CHAT_MODEL"; fi; \
	if [ -n "$$CHAT_PROMPT" ]; then exec $(BIN)/edgellm run "$$@" --prompt="$$CHAT_PROMPT"; \
	else exec $(BIN)/edgellm chat "$$@"; fi

setup: ## .venv with edgellm, what its development needs, and the default model
	@$(SETUP) --extras dev

test: setup ## every test that needs no special hardware; ARGS=... goes to pytest
	$(BIN)/pytest -m "not oracle" $(ARGS)

test-oracle: ## derive afresh what golden files hold, with torch and transformers
	@$(SETUP) --extras dev,oracle
	$(BIN)/pytest -m oracle $(ARGS)

test-arm64: setup ## bundles on an emulated Raspberry Pi: as root, with qemu-user-static and debootstrap
	TEST_ARM64=1 $(BIN)/pytest -m arm64 $(ARGS)

lint: setup ## ruff, mypy --strict and the rules of who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## put the code into ruff's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## each claim about speed, as a ratio against a peer in the same run
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

docs: setup ## write docs/cli-reference.md and docs/architectures.md from the code
	$(BIN)/python tools/cli_reference.py
	$(BIN)/python tools/architectures.py

clean: ## remove .venv and caches of tools; models and built wheels stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
