# Every target installs what it needs first. PYTHON names the interpreter that makes the virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test install-engines test-engines install-airflow test-deploy test-images lint api clean

install: $(VENV)/.installed

# The stamp is newer than the pins, or the environment is made up to date.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/nnsparse-stream demo --output demo --overwrite

# Side by side in two processes, each of which makes the fixtures that it needs.
test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Needs no virtual environment. What a machine lacks the tools for is left out.
install-engines:
	-$(PYTHON) -m deploy.engines.prism install
	-$(PYTHON) -m deploy.engines.flink install

# Prism, Flink and an Azure server are installed where Go, Java and Maven, npm are; the table at the end says what was left out, and why.
# All tests of one engine run in the same one of two processes.
test-engines: install
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m engines tests/engines

# Airflow has an environment of its own, for the test of its DAG.
install-airflow:
	$(PYTHON) -m venv .venv-airflow
	.venv-airflow/bin/python -m pip install --quiet --disable-pip-version-check --requirement deploy/schedule/requirements-airflow.txt

# What lies below deploy/, but for the engines and the images.
test-deploy: install
	$(BIN)/python -m pytest -n 2 --dist loadscope tests/deploy

# Builds an image and runs a pipeline in it: as root, with buildah and debootstrap (Debian's packages) and Go.
test-images: install
	$(BIN)/python -m pytest -n 0 -m images tests/deploy/test_image_build.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# docs/api.md, from the docstrings.
api: install
	$(BIN)/python docs/generate_api.py

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
