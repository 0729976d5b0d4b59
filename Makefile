# Two commands do all the set-up: `make train` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# The tests start some hundred processes, which would otherwise compile famseg again and again.
export PYTHONDONTWRITEBYTECODE :=
# More than cores: three tenths of the time, tests wait for servers, browsers and other processes.
WORKERS ?= $(shell expr 3 \* $$(getconf _NPROCESSORS_ONLN) / 2)
RELEASE := $(VENV)/.release

.DEFAULT_GOAL := help
.PHONY: help install train test lint check nightly docs viewer fuzz clean

help:
	@echo "make train   install, then train and evaluate on the embedded skulls"
	@echo "make test    install, then run the whole test suite"
	@echo "make check   what CI runs: lint, types, import rules, spelling, tests"
	@echo "make docs    build the documentation into build/site, its reference written anew"
	@echo "make viewer  fetch what draws the interactive views of reports"
	@echo "make wheel sbom audit licences lock image-test   for a release, see CONTRIBUTING.md"
	@echo "make nightly  what takes long: all commands of the docs, kills, random networks, fuzzing, release checks"
	@echo "make fuzz    feed malformed files to the file readers, for twice ten minutes"
	@echo "make clean   remove the virtual environment and caches, not the runs"

install: $(READY)

# uv installs in seconds what takes pip more than a minute. Where it fails, for example because an
# index is configured for pip alone, pip does it.
add = $(BIN)/uv pip install --quiet --python $(BIN)/python $(1) \
	|| $(BIN)/python -m pip install --quiet --no-compile $(1)

# Installs again only when the list of packages has changed. torch goes first, by pip: its version
# is pinned, so that nothing else can draw in another build of it.
$(READY): pyproject.toml constraints.txt requirements/oracles.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "famseg needs Python 3.11 or newer: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch uv
	$(call add,--constraint constraints.txt --editable '.[dev]')
	$(call add,--no-deps --requirement requirements/oracles.txt)
	@# Some packages hold templates and tests that are not Python 3.11.
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

# --resume: an interrupted training of this configuration is resumed, a finished one is reported.
train: $(READY)
	$(BIN)/famseg train --config skull.yaml --resume
	@echo
	@echo "A defective phantom, completed by the built-in network:"
	$(BIN)/famseg reconstruct builtin demo --out build/demo --report
	@echo
	@echo "Compare runs in the MLflow UI:  $(BIN)/famseg ui"

test: $(READY)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

check: lint test

# Each part runs even where one before it has failed.
nightly: $(RELEASE)
	status=0; \
	$(BIN)/python -m pytest -m nightly --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal || status=1; \
	FAMSEG_EXAMPLES=20 $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 \
		tests/flatness/test_random_networks.py || status=1; \
	for part in fuzz wheel sbom audit licences; do $(MAKE) $$part || status=1; done; \
	exit $$status

# Twice so many seconds, and what was found; see SECURITY.md.
FUZZ_SECONDS ?= 600
fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	status=0; for fuzzer in hypothesis atheris; do \
		$(BIN)/python -W ignore tests/fuzz/run_$$fuzzer.py $(FUZZ_SECONDS) || status=1; \
	done; exit $$status

# The pages of the command line and of the configuration are written from the program.
docs: $(READY)
	$(BIN)/python docs/_site/write_reference.py
	$(BIN)/python -m sphinx -W --keep-going -E -q -c docs . build/site
	@echo "open build/site/index.html"

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info

# What a release is made of and checked with. The tools are an extra, which tests do not need.
$(RELEASE): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[server,release]'
	@touch $@

# What draws the interactive views of reports, by version and hash; without it they show images.
viewer:
	$(PYTHON) requirements/viewer.py

# The same commit gives the same wheel, to the last byte: of its files alone, with its date and with
# permissions that do not depend on who builds.
wheel: $(RELEASE)
	rm -rf build/release && mkdir -p build/release
	git -c tar.umask=0022 archive HEAD | tar -x -p -C build/release
	umask 0022 && $(BIN)/python requirements/viewer.py --into build/release
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --outdir dist build/release
	$(BIN)/twine check --strict dist/famseg-*.whl dist/famseg-*.tar.gz
	cd dist && sha256sum famseg-*.whl

lock: $(RELEASE)
	$(BIN)/python requirements/lock.py

sbom: $(RELEASE)
	$(BIN)/python requirements/sbom.py dist

audit: $(RELEASE)
	$(BIN)/python requirements/audit.py

licences: $(RELEASE)
	$(BIN)/python requirements/licences.py dist/licences.md

image-test:
	docker/test_image.sh
