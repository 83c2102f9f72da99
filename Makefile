# The same few commands at home and in CI. The environment is made once, in .venv.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
SCHEDULES ?= 3
SECONDS ?= 20
SEED ?= 19
ORDERS ?= 2000
FIRST_SEED ?= 0

.PHONY: help demo test test-orders test-kafka test-faults fuzz lint types audit clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev]'
	mkdir -p .venv/types && ln -sfn $(CURDIR) .venv/types/headrace
	touch $@

demo: $(READY)  ## real purchases through a real broker, live on one screen (about two minutes)
	$(BIN)/headrace demo

test: $(READY)  ## unit, operations and broker tests; the embedded broker is started by the tests
	$(BIN)/python -m pytest

# Faust keeps sets of names: their order, and so a schedule's, changes with the seed of Python's hashes.
test-orders: $(READY)  ## play ORDERS=2000 random orders of events, from FIRST_SEED=0 on, without a broker
	PYTHONHASHSEED=0 $(BIN)/python -m pytest tests/simulation --timeout 0 --orders $(ORDERS) --first-seed $(FIRST_SEED)

test-kafka: $(READY)  ## the broker tests again, against Apache Kafka (needs Java 17, Maven and openssl, no Docker)
	$(BIN)/python -m pytest tests/broker --broker kafka

# In a namespace of its own, so that an ordinary user may mount the small disk that is filled.
# Seeds 19, 20 and 21 bring every fault in 20 seconds each.
test-faults: $(READY)  ## play SCHEDULES=3 of faults, SECONDS=20 each, from SEED=19 on (as test-kafka)
	unshare --map-root-user --mount $(BIN)/python -m pytest tests/faults \
	  --schedules $(SCHEDULES) --seconds $(SECONDS) --seed $(SEED) $(if $(SEEN),--seen $(SEEN))

fuzz: SECONDS = 60
fuzz: $(READY)  ## every decoder with bytes nobody would send, SECONDS=60 each; findings in .fuzz/
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(SECONDS)

lint: $(READY)  ## style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(READY)  ## strict types of model/ and streams/
	cd .venv/types && MYPYPATH=. ../bin/mypy --config-file headrace/pyproject.toml -p headrace.model -p headrace.streams

# Strict: where the index has no vulnerability data (many mirrors), it fails and is no false comfort.
audit: $(READY)  ## known vulnerabilities of what is installed; asks PyPI's JSON API, so it is not in CI
	$(BIN)/uv tool run 'pip-audit>=2.9' --strict --skip-editable --path $(READY:.ready=lib/python3*/site-packages)

clean:  ## remove the environment and caches
	rm -rf .venv .fuzz .kafka .tools .mypy_cache .pytest_cache .ruff_cache build *.egg-info
