# Every target works as the only command on a fresh machine with Python 3.11: it makes the environment it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread on small machines: two threads on two busy cores make the language model several times slower.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test test-slow lint bench bench-table docs clean env

env: $(VENV)/.installed

# torch first and pinned: a bare requirement would bring gigabytes of CUDA to machines without a GPU.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "corrigenda needs Python 3.11 or later; run: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/corrigenda models pull smollm2
	touch $@

demo: env
	@$(BIN)/corrigenda demo --memory demo.db
	@echo
	@echo "A second process opens the same memory file:"
	@$(BIN)/corrigenda edit list --memory demo.db
	@$(BIN)/corrigenda ask "Burma's capital city is called" --compare --memory demo.db

test: env
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest --cov --cov-report=term -m "not slow and not gpu"

test-slow: env
	$(BIN)/python -m pytest -m slow

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: env
	$(BIN)/corrigenda bench overhead
	$(BIN)/corrigenda bench add

# The table of every method: single and sequential edits, on every data set. May be killed and started again; as it
# stands, about six hours of one core. Methods of a minute an edit get few edits.
DATA ?= ../shared/data
BENCH_OUT ?= docs/benchmark
BENCH_METHODS ?=
BENCH_MEMORY ?= 30
BENCH_SINGLE ?= 10
BENCH_SEQUENTIAL ?= 10
BENCH_FEW ?= --edits kn=3 --edits mello=3 --edits ike-unscoped=3

bench-table: env
	$(BIN)/corrigenda stats collect --layers 5-10 --corpus $(DATA)/corpus.txt
	$(BIN)/corrigenda ke train --data $(DATA)/counterfact_train.json --if-missing
	$(BIN)/corrigenda eval table --data $(DATA)/counterfact.json --data $(DATA)/zsre_eval.json \
	  --portability $(DATA)/portability.json --task $(DATA)/piqa_valid.jsonl --task-limit 100 --out $(BENCH_OUT) \
	  --methods "$(BENCH_METHODS)" --memory-edits $(BENCH_MEMORY) --single-edits $(BENCH_SINGLE) \
	  --sequential-edits $(BENCH_SEQUENTIAL) $(BENCH_FEW)

docs: env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt mkdocs-material
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site demo.db* .coverage* .mypy_cache .ruff_cache .pytest_cache
