# make demo    explain photographs with a pretrained network: a table, figures and a page in out/
# make test    the tests
#
# Both need Python 3.11 or newer and make, nothing else: the first call makes .venv and installs
# what it uses, later calls go straight to work until pyproject.toml or constraints.txt change.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
NEEDS := pyproject.toml constraints.txt
ARGS ?=

# The documentation and the demo show the same on every machine.
export PYTHONUTF8 = 1

.PHONY: demo test test-peers test-browser test-wheel test-versions test-all lint format types imports docs bench changelog tools clean distclean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:
	@echo "make demo      explain photographs with a pretrained network; writes to out/"
	@echo "make test      the tests; needs nothing but what it installs"
	@echo "make test-peers     comparisons with other libraries; installs them"
	@echo "make test-browser   the page in chromium, which has to be there"
	@echo "make test-wheel     the wheel alone: every method, attack and metric, a page, the commands"
	@echo "make test-versions  the same under each Python with the oldest and the newest PyTorch; takes long"
	@echo "make test-all  all of them, the slow ones too"
	@echo "make lint      lint and formatting; make format repairs what can be repaired"
	@echo "make imports   the order of imports between rooms"
	@echo "make types     static types"
	@echo "make docs      the documentation with its gallery, to docs/_build/html"
	@echo "make bench     ratios against captum"
	@echo "make clean     remove what was built; make distclean also removes $(VENV)"

demo: $(VENV)/.demo
	$(VENV)/bin/abe demo $(ARGS)

# One thread per process: two test processes share the cores instead of fighting for them.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -m "not slow and not peers and not browser" $(ARGS)

test-peers: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -m "peers and not slow" $(ARGS)

test-browser: $(VENV)/.test
	$(PY) -m pytest -m browser $(ARGS)

test-wheel: $(VENV)/.test
	OMP_NUM_THREADS=1 $(PY) tests/versions/matrix.py alone

# Downloads gigabytes and takes the better part of an hour; of ARGS="3.13 2.6" each word leaves rows out.
test-versions: $(VENV)/.test
	OMP_NUM_THREADS=1 $(PY) tests/versions/matrix.py all $(ARGS)

test-all: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 $(ARGS)

lint: $(VENV)/.tools
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

imports: $(VENV)/.tools
	$(VENV)/bin/lint-imports

format: $(VENV)/.tools
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(VENV)/.tools
	$(VENV)/bin/pyright --pythonpath $(PY)

# Runs the galleries of examples/ too, where they changed: some minutes after `make clean`, seconds later.
docs: $(VENV)/.tools
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html

bench: $(VENV)/.tools
	$(PY) -m benchmarks $(ARGS)

tools: $(VENV)/.tools

# An environment is complete when its stamp exists. Each stamp builds on the one before, so the
# demo installs no test tools and the tests add to the demo's torch instead of replacing it.
$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ABE needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.venv $(NEEDS)
	@echo "Installing the demo's packages (torch is large; this takes some minutes once) ..."
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "Installing the packages of the tests ..."
	$(INSTALL) --editable '.[demo,test]'
	@touch $@

$(VENV)/.tools: $(VENV)/.test
	@echo "Installing the packages of lint, types, documentation and benchmarks ..."
	$(INSTALL) --editable '.[demo,test,docs,dev,peers]'
	@touch $@

clean:
	rm -rf build dist out docs/_build docs/generated .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf $(VENV)
