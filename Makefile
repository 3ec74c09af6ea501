# Each command sets up all that it needs, in .venv. Python 3.11 or newer; another one: make PYTHON=python3.12 test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo

.PHONY: setup demo test test-slow lint types docs notebooks bench clean

setup: $(VENV)/.dev

demo: $(VENV)/.user
	$(BIN)/slatewise demo --out $(OUT)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "slow or not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/basedpyright

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

notebooks: $(VENV)/.notebooks
	$(BIN)/python docs/notebooks/pair.py

bench: $(VENV)/.user
	$(BIN)/python benchmarks/worlds.py
	$(BIN)/python benchmarks/ceilings.py
	$(BIN)/python benchmarks/simulation.py
	$(BIN)/python benchmarks/slateq.py
	$(BIN)/python benchmarks/slateq_paper.py
	$(BIN)/python benchmarks/slateq_targets.py
	$(BIN)/python benchmarks/slateq_ablation.py
	$(BIN)/python benchmarks/joint_choice.py
	$(BIN)/python benchmarks/slides.py
	$(BIN)/python benchmarks/history.py
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/slates.py
	$(BIN)/python benchmarks/bandits.py
	$(BIN)/python benchmarks/bandit_seeds.py
	$(BIN)/python benchmarks/mismatch.py
	$(BIN)/python benchmarks/off_policy.py
	$(BIN)/python benchmarks/off_policy_speed.py
	$(BIN)/python benchmarks/off_policy_coverage.py
	$(BIN)/python benchmarks/off_policy_scale.py
	$(BIN)/slatewise logs import open-bandit --download --overwrite --out logs/open-bandit
	$(BIN)/python benchmarks/open_bandit.py
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/exploration.py
	$(BIN)/python benchmarks/policy_gradient.py
	$(BIN)/python benchmarks/curves.py
	$(BIN)/python benchmarks/retrieval.py
	$(BIN)/python benchmarks/wolpertinger.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("slatewise needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.user

$(VENV)/.docs: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	touch $@

$(VENV)/.notebooks: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[notebooks]'
	touch $@

clean:
	rm -rf $(VENV) $(OUT) site
