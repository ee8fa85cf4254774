# Each target sets itself up: .venv is made and filled when it is missing or pyproject.toml changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Of what it takes to predict, and of everything.
BASE := $(VENV)/.installed-base
INSTALLED := $(VENV)/.installed

# What `make bench` measures with: some GB, kept for the next time. The original recording is not ours
# to ship; without it only simulated ones are measured.
BENCH_OUT ?= stallscan-bench
REAL ?= $(wildcard ../shared/real/clips/104611.mp4)

.PHONY: demo test test-slow chaos check references docs docs-links pictures bench install clean

demo: $(BASE)
	$(BIN)/stallscan demo

# One thread a test process: two times two on two cores wait for each other most of the time.
test test-slow chaos: export OMP_NUM_THREADS := 1

# The fast suite; CI runs the slow one, too.
test: $(INSTALLED)
	$(BIN)/pytest -n auto --dist loadscope -m "not slow and not gpu"

# A module runs in one worker, so that its fixtures are set up once. Not sorted by the number of tests:
# the longest modules have few.
test-slow: $(INSTALLED)
	$(BIN)/pytest -n auto --dist loadscope --no-loadscope-reorder -m "slow and not gpu" --durations 25

# What goes wrong in long jobs, then random kills: 20 on the pool, 10 on Ray, and 10 on SLURM where it
# is installed and this is root. An hour on an idle machine.
chaos: $(INSTALLED)
	$(BIN)/pytest -m "slow and not gpu" tests/chaos tests/deploy tests/scale
	$(BIN)/python -m tests.chaos.kills --engine pool --kills 20 stallscan-chaos
	$(BIN)/python -m tests.chaos.kills --engine ray --kills 10 stallscan-chaos
	if command -v slurmctld && [ "$$(id -u)" = 0 ]; then \
		$(BIN)/python -m tests.chaos.kills --engine slurm --kills 10 --plans 2 stallscan-chaos; \
	fi

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The references of commands and settings, and the list of all messages; tests fail while they are out of date.
references: $(INSTALLED)
	$(BIN)/python -m tests.messages tests/messages.txt
	$(BIN)/python -m stallscan.cli.reference docs/reference/commands.md
	$(BIN)/python -m stallscan.recipes.described docs/reference/settings.md

# The site, docs/_build/html/index.html. Pages of the repository outside docs/ are part of it, so the
# source folder is the root.
SPHINX = $(BIN)/sphinx-build -W --keep-going -q -c docs
docs: references
	$(SPHINX) -b html . docs/_build/html

# The pictures, from simulated recordings; needs Chromium.
pictures: $(INSTALLED)
	$(BIN)/python docs/pictures.py

# Links to other sites, too; needs the network.
docs-links: $(INSTALLED)
	$(SPHINX) -b linkcheck . docs/_build/links

# An hour, on a machine that does nothing else; the tables in benchmarks/ are written anew.
bench: $(INSTALLED)
	$(BIN)/python benchmarks/speed.py $(BENCH_OUT) $(if $(REAL),--real $(REAL))
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/scale.py $(BENCH_OUT) --sizes 100 1000

install: $(INSTALLED)

$(BASE): EXTRAS :=
$(INSTALLED): EXTRAS := [dev]

$(BASE) $(INSTALLED): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --python $(BIN)/python -e '.$(EXTRAS)'; \
	else \
		$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "stallscan needs Python 3.11 or newer, this is %d.%d; give another: make PYTHON=python3.12" % v[:2])' && \
		$(PYTHON) -m venv $(VENV) && \
		echo "installing stallscan and what it needs into $(VENV) (a few minutes)" && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.$(EXTRAS)'; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) stallscan-demo stallscan-chaos .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
