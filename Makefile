# Two commands do everything: `make bench` and `make test`. Both set up .venv first if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Set, it would have each process that a test starts compile our modules anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: bench test test-all test-engine lint docs audit setup quantize-env clean

setup: $(READY)

$(READY): $(filter-out %/quantize.lock,$(wildcard requirements/*.lock)) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "draftgate needs Python 3.11 or newer, and $(PYTHON) is older: name a newer one, like make setup PYTHON=python3.12")'
	@$(PYTHON) requirements/install.py $(VENV)
	@touch $(READY)

# llm-compressor, for recipes that quantise a target: it wants other versions than the engine does.
quantize-env: $(VENV)-quantize/.ready

$(VENV)-quantize/.ready: requirements/quantize.lock requirements/torch-cpu.lock
	@$(PYTHON) requirements/install.py $(VENV)-quantize quantize-env
	@touch $@

bench: $(READY)
	$(BIN)/python -m pytest bench_suites

# The fast ones first: what fails there is not waited for.
test: $(READY)
	@for tier in unit component engine; do \
	  began=$$(date +%s); \
	  case $$tier in engine) two=;; *) two="-n 2 --dist loadfile";; esac; \
	  $(BIN)/python -m pytest tests/$$tier -m "not nightly" --durations 10 $$two || exit; \
	  echo "tests/$$tier took $$(($$(date +%s) - began)) s"; \
	done

test-all: $(READY)
	DRAFTGATE_FUZZ=long $(BIN)/python -m pytest tests

# What measuring rests on, on the vLLM of another interpreter: make test-engine ENGINE=/path/to/python
test-engine: $(READY)
	DRAFTGATE_TEST_ENGINE=$(ENGINE) $(BIN)/python -m pytest tests/engine/test_measuring.py tests/engine/test_selfdraft.py

# Known vulnerabilities of what the locks name. Needs the network and may turn red by itself: no part of CI.
audit:
	set -e; audit=$$(mktemp -d); trap 'rm -rf "$$audit"' EXIT; $(PYTHON) -m venv "$$audit"; \
	"$$audit/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit; \
	for locks in "cpu torch-cpu train dev" quantize; do \
	  for lock in $$locks; do sed 's/+cpu$$//' requirements/$$lock.lock; done > "$$audit/all.txt"; \
	  "$$audit/bin/pip-audit" --strict --no-deps --disable-pip --progress-spinner off -r "$$audit/all.txt"; \
	done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The pictures in the docs, from committed records. They show regressed cells, so the exit code says nothing.
docs: $(READY)
	@rm -f docs/images/drafters.svg
	$(BIN)/draftgate compare tests/data/recordings/bfloat16 --old ngram-k4 --new eagle3r1-k4 --output docs/images/drafters.svg || test -f docs/images/drafters.svg

clean:
	rm -rf $(VENV) $(VENV)-quantize results
