# optictl: set up, try, test, measure. Needs Python 3.11+ and make; uses uv where it is there.

SHELL := /bin/sh
PYTHON ?= python3
# A virtual environment for each state of the requirements: a change makes a new one.
KEY := $(shell cat pyproject.toml requirements/dev.txt | sha256sum | cut -c1-12)
VENV := .venv-$(KEY)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The end-to-end tests' gateway, with its own dependencies.
LITELLM := .venv-litellm-$(shell sha256sum requirements/litellm.txt | cut -c1-12)
# What we are measured against.
OPTILLM := .venv-optillm-$(shell sha256sum requirements/optillm.txt | cut -c1-12)
# The router's classifier, on either line of transformers.
ROUTER4 := .venv-router4-$(shell sha256sum requirements/router4.txt | cut -c1-12)
ROUTER5 := .venv-router5-$(shell sha256sum requirements/router5.txt | cut -c1-12)

# $(call install,VENV,REQUIREMENTS,FLAGS): a virtual environment with exactly these packages.
define install
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python "$(PYTHON)" $(1) && \
	  uv pip install --quiet --python $(1)/bin/python --require-hashes $(3) -r $(2); \
	else \
	  $(install-by-pip); \
	fi
endef
define install-by-pip
"$(PYTHON)" -m venv $(1) && \
	  $(1)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes $(3) -r $(2)
endef

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-router test-system lint format bench bench-peer bench-router docs train-router requirements clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## Make the virtual environment

$(READY): pyproject.toml requirements/dev.txt
	$(call install,$(VENV),requirements/dev.txt)
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --python $(BIN)/python --no-deps --editable . ; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . ; \
	fi
	@touch $@

$(LITELLM)/.ready: requirements/litellm.txt
	$(call install,$(LITELLM),$<)
	@touch $@

# Not with what its metadata asks for: that is torch and more, and takes pip minutes to settle.
$(OPTILLM)/.ready: requirements/optillm.txt
	$(call install,$(OPTILLM),$<,--no-deps)
	@touch $@

# By pip, even where uv is there: where torch's build for the CPU is found is a matter of pip's
# configuration, which uv does not read.
$(ROUTER4)/.ready: requirements/router4.txt
	@$(call install-by-pip,$(ROUTER4),$<)
	@touch $@

$(ROUTER5)/.ready: requirements/router5.txt
	@$(call install-by-pip,$(ROUTER5),$<)
	@touch $@

demo: $(READY)  ## One question through five approaches on a simulated model, with their calls
	@$(BIN)/python -m benchmarks.demo

# Three at a time on two cores: two of them left the cores idle for two fifths of the time.
test: lint $(LITELLM)/.ready  ## Every test that needs neither root nor Debian packages nor torch
	@LITELLM=$(CURDIR)/$(LITELLM)/bin/litellm $(BIN)/python -m pytest -q -m "not system and not router" -n 3 --dist loadfile --no-loadscope-reorder

test-router: $(ROUTER4)/.ready $(ROUTER5)/.ready  ## What needs torch, on transformers 4 and 5
	@for venv in $(ROUTER4) $(ROUTER5); do $$venv/bin/python -m pytest -q tests/router || exit 1; done

test-system: $(READY) $(LITELLM)/.ready $(ROUTER5)/.ready  ## What needs root or Debian packages
	@{ command -v curl && test -x /usr/lib/systemd/systemd && command -v nsenter; } >/dev/null || \
	  { apt-get update -q && apt-get install -y -q --no-install-recommends curl systemd util-linux; }
	@command -v promtool >/dev/null || \
	  { apt-get update -q && apt-get install -y -q --no-install-recommends prometheus; }
	@LITELLM=$(CURDIR)/$(LITELLM)/bin/litellm ROUTER=$(CURDIR)/$(ROUTER5)/bin/python \
	  $(BIN)/python -m pytest -q -m system tests/system

lint: $(READY)  ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY)  ## Format and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY)  ## Print the figures of docs/benchmarks.md
	@$(BIN)/python -m benchmarks.bench

bench-peer: $(READY) $(OPTILLM)/.ready  ## The same loads on OptiLLM 0.3.12 and on us (QUICK=1: a short run)
	@$(BIN)/python -m benchmarks.peer --optillm $(OPTILLM)/bin/optillm $(if $(QUICK),--quick)

bench-router: $(ROUTER5)/.ready  ## The router's classifier, OptiLLM's way and ours (QUICK=1: a short run)
	@$(ROUTER5)/bin/python -m benchmarks.router $(if $(QUICK),--quick)

docs: $(READY)  ## Write the reference pages of docs/ anew, from the program
	@$(BIN)/python -m tools.reference

train-router: $(READY)  ## Train the router's linear model anew, and write its report
	@$(BIN)/python -m tools.train_router

requirements:  ## Pin everything again (needs uv)
	@for name in base dev; do \
	  extra=$$( [ $$name = base ] || echo "--extra $$name" ); \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --no-emit-find-links $$extra pyproject.toml \
	    -o requirements/$$name.txt ; \
	done
	@for line in 4 5; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --no-emit-find-links --extra test --extra router \
	    --constraint requirements/router$$line.in pyproject.toml -o requirements/router$$line.txt ; \
	done
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links requirements/litellm.in \
	  -o requirements/litellm.txt
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links requirements/optillm.in \
	  -o requirements/optillm.txt
	@echo optillm==0.3.12 | uv pip compile --quiet --no-deps --generate-hashes --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links - >> requirements/optillm.txt

clean:  ## Remove virtual environments and caches
	@rm -rf .venv-* .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
