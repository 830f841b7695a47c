# make up: everything on this machine.   make test: all tests.
PYTHON ?= python3.11
VENV ?= .venv
LABEL_STUDIO_VENV ?= .venv-label-studio
LABEL_STUDIO_VERSION = 1.23.2
LABEL_STUDIO_ML_VENV ?= .venv-label-studio-ml
# Tests run in this many processes; 0 is one after the other. More want more than two cores.
TEST_PROCESSES ?= 2
PYTEST = -m pytest -n $(TEST_PROCESSES) --no-loadscope-reorder
PIP = -m pip install --disable-pip-version-check --quiet

.PHONY: up test test-unit check bench lock clean

up: $(VENV)/.installed-worker $(LABEL_STUDIO_VENV)/.installed
	@$(VENV)/bin/saymask-worker models pull
	@$(VENV)/bin/saymask up --label-studio $(LABEL_STUDIO_VENV)/bin/label-studio

test: $(VENV)/.installed-dev $(LABEL_STUDIO_VENV)/.installed $(LABEL_STUDIO_ML_VENV)/.installed
	@$(VENV)/bin/saymask-worker models pull
	@SAYMASK_LABEL_STUDIO_PROGRAM=$(LABEL_STUDIO_VENV)/bin/label-studio \
	  LABEL_STUDIO_ML_PYTHON=$(LABEL_STUDIO_ML_VENV)/bin/python $(VENV)/bin/python $(PYTEST)

test-unit: $(VENV)/.installed-dev
	@$(VENV)/bin/python $(PYTEST) -m "not integration and not slow and not stack and not browser"

check: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

bench: $(VENV)/.installed-dev
	@$(VENV)/bin/python -m benchmarks

$(VENV)/bin/python:
	@$(PYTHON) -m venv $(VENV) || { echo "Python 3.11 or newer is needed: make up PYTHON=/path/to/python3.11"; exit 1; }

$(VENV)/.installed-worker: $(VENV)/bin/python pyproject.toml
	@echo "installing saymask with torch into $(VENV) (about 2 minutes, 7 GB, the first time) ..."
	@s=$$(date +%s); $(VENV)/bin/python $(PIP) -e '.[worker,train,queue,export]' && touch $@ && echo "installed after $$(( $$(date +%s) - s )) s"

$(VENV)/.installed-dev: $(VENV)/.installed-worker
	@echo "installing what the tests need ..."
	@$(VENV)/bin/python $(PIP) -e '.[worker,train,queue,postgresql,export,hub,batch,ray,dev]' && touch $@

$(LABEL_STUDIO_VENV)/.installed: Makefile
	@echo "installing Label Studio $(LABEL_STUDIO_VERSION) into $(LABEL_STUDIO_VENV) (about 2 minutes the first time) ..."
	@s=$$(date +%s); $(PYTHON) -m venv $(LABEL_STUDIO_VENV) && $(LABEL_STUDIO_VENV)/bin/python $(PIP) label-studio==$(LABEL_STUDIO_VERSION) && touch $@ && echo "installed after $$(( $$(date +%s) - s )) s"

$(LABEL_STUDIO_ML_VENV)/.installed: docker/label-studio-ml/requirements.txt
	@echo "installing label-studio-ml into $(LABEL_STUDIO_ML_VENV), for its tests ..."
	@$(PYTHON) -m venv $(LABEL_STUDIO_ML_VENV) && $(LABEL_STUDIO_ML_VENV)/bin/python $(PIP) -r $< && touch $@

# What the images install: exact versions with hashes, and the licences of all of it.
lock: $(VENV)/.installed-dev
	@for part in backend:postgresql,export worker:worker,train; do \
	  extras=$$(echo $${part#*:} | sed 's/,/ --extra /g'); \
	  $(VENV)/bin/uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 \
	    --python-platform linux --custom-compile-command "make lock" --extra $$extras \
	    --output-file docker/$${part%%:*}.lock pyproject.toml; done
	@$(VENV)/bin/python docker/list_licences.py > docker/licences.md

clean:
	rm -rf $(VENV) $(LABEL_STUDIO_VENV) $(LABEL_STUDIO_ML_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
