# make demo: one job from POST to a model that loads again, on this machine
# make test: the tests of every part, in ten minutes; make check: the rules too; make test-all: the slow tests as well
# make thorough: the long lists of cases of which the tests take some
# make examples: every example of the guide on a server of its own, as a table; make plans: each through every plan
# make security: what gets out of the sandbox, past the archives and through the API (nothing), as a table
# make fuzz-protocol: a sandbox that speaks wrongly to its agent, for 30 seconds (SECONDS=600: ten minutes)
# make fuzz: 500 random set-ups, trained by fit and by the engine and compared (about an hour)
# make fuzz-http: mutated requests against a real service for SECONDS (600), beside a worker of another project
# make tables: 300 random tables by pandas, polars and DuckDB, read by the sources and compared (about 10 minutes)
# make faults: everything that can go wrong, done for real on both databases, as a table (about 45 minutes)
# make page: builds the web page that the service shows (Node comes from a wheel); make page-test: tests of its pure parts
# make bench: every benchmark, as tables (about 90 minutes); make bench-quick: some of them, under 5 minutes
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := uv
PAGE := service/tapeworks_service/web/dist/index.html
PAGE_SOURCES := $(shell find web -type f -not -path '*/node_modules/*' -not -name schema.d.ts) \
	$(shell find tapeworks/schemas tapeworks/spec service/tapeworks_service/api -name '*.py') docs/errors.md scripts/build_page.py
unexport PYTHONDONTWRITEBYTECODE
export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo examples plans subset security faults fuzz fuzz-http fuzz-protocol tables bench bench-quick test test-rest test-all thorough check rules docs page page-test \
	lock clean

help:
	@sed -n '1,12s/^# //p' Makefile

demo: $(STAMP)
	@$(BIN)/python -m examples.demo

# Every row of the guide against a server of its own; ONLY=gan: those whose row or file says so.
examples: $(STAMP)
	@$(BIN)/python -m examples.run $(ONLY)

# Each for a few steps by every way to dispatch steps, and how far apart their losses are.
plans: $(STAMP)
	@$(BIN)/python -m examples.plans $(ONLY)

# Which of them the tests run.
subset: $(STAMP)
	@$(BIN)/python -m examples.rows

# Every attempt against a real server; EXAMPLES: requests of each kind to each operation.
security: $(STAMP)
	@$(BIN)/python -m qualification.security --examples $(or $(EXAMPLES),60)

# SEED: where it begins; what is printed as wrong names its seed.
fuzz-protocol: $(STAMP)
	@$(BIN)/python -m qualification.security.protocol_fuzzer --seconds $(or $(SECONDS),30) --seed $(or $(SEED),1)

# ROWS=runner,agent: those alone; DATABASE=sqlite or postgresql: with that one alone.
faults: $(STAMP)
	@$(BIN)/python -m qualification.faults --rows "$(ROWS)" --database "$(DATABASE)"

# COUNT set-ups from SEED on; ONLY=a seed that was printed: that one alone.
fuzz: $(STAMP)
	@$(BIN)/python -m qualification.differential --count $(or $(COUNT),500) --seed $(or $(SEED),1) $(if $(ONLY),--only $(ONLY))

# SECONDS of them, from SEED on; DATABASE=sqlite or postgresql.
fuzz-http: $(STAMP)
	@$(BIN)/python -m qualification.http --seconds $(or $(SECONDS),600) --seed $(or $(SEED),1) --database $(or $(DATABASE),sqlite)
# COUNT tables from SEED on; ONLY=a seed that was printed: that one alone.
tables: $(STAMP)
	@$(BIN)/python -m qualification.tables --count $(or $(COUNT),300) --seed $(or $(SEED),1) $(if $(ONLY),--only $(ONLY))

bench: $(STAMP)
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.api
	$(BIN)/python -m benchmarks.api --database postgresql
	$(BIN)/python -m benchmarks.small_jobs
	$(BIN)/python -m benchmarks.watchers
	$(BIN)/python -m benchmarks.watchers --database postgresql
	$(BIN)/python -m benchmarks.transfers
	$(BIN)/python -m benchmarks.idle_memory
	$(BIN)/python -m benchmarks.sandbox
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python benchmarks/main_job.py
	$(BIN)/python -m benchmarks.checkpoints
	$(BIN)/python -m benchmarks.claims
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/sparse_memory.py
	$(BIN)/python benchmarks/stream_memory.py

bench-quick: $(STAMP)
	$(BIN)/python -m benchmarks.training --only "MLP 64" --turns 2
	$(BIN)/python -m benchmarks.start --turns 1
	$(BIN)/python -m benchmarks.api --turns 1
	$(BIN)/python -m benchmarks.watchers --seconds 10
	$(BIN)/python -m benchmarks.transfers --mebibytes 256 --turns 1
	$(BIN)/python -m benchmarks.idle_memory
	$(BIN)/python -m benchmarks.claims --longest 100 --times 20

test: $(STAMP)
	@$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow and not thorough"

# What `make test` leaves out, and both together.
test-rest: $(STAMP) $(PAGE)
	@$(BIN)/python -m pytest -q -n auto --dist loadfile -m "slow and not thorough"

test-all: $(STAMP) $(PAGE)
	@$(BIN)/python -m pytest -q -n auto --dist loadfile

thorough: $(STAMP)
	@$(BIN)/python -m pytest -q -n auto --dist load -m thorough

check: rules test

rules: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/python docs/make_errors.py
	$(BIN)/python docs/make_limits.py

page: $(PAGE)

# Again when a source of the page, or what the API's types are made of, is newer.
$(PAGE): $(STAMP) $(PAGE_SOURCES)
	@$(BIN)/python scripts/build_page.py
	@touch $(PAGE)

page-test: $(PAGE)
	@$(BIN)/python scripts/build_page.py --test

# The environment: exactly what the lock says. It is made once and again when the lock changes.
$(STAMP): requirements/development.lock pyproject.toml
	@python=$$(sh scripts/find-python.sh) || exit 1; \
	if ! $(BIN)/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
		echo "creating $(VENV) with $$python"; rm -rf $(VENV); "$$python" -m venv $(VENV) || exit 1; fi
	@echo "installing what requirements/development.lock pins (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --no-compile --require-hashes -r requirements/development.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@# TensorFlow starts in 3 s from bytecode and in 20 s without. A file that is no Python of this version is left.
	@$(BIN)/python -m compileall -q -j 0 $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') >/dev/null 2>&1 || :
	@touch $(STAMP)

lock:
	$(UV) pip compile pyproject.toml --extra service --extra worker --extra dev --universal --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" -o requirements/development.lock
	$(UV) pip compile pyproject.toml --extra service --universal --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" -c requirements/development.lock -o requirements/service.lock
	$(UV) pip compile pyproject.toml --extra worker --universal --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" -c requirements/development.lock -o requirements/worker.lock
	$(UV) pip compile pyproject.toml --extra worker --extra gpu --universal --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" -c requirements/development.lock -o requirements/gpu.lock
	echo hatchling | $(UV) pip compile - --universal --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" -c requirements/development.lock -o requirements/build.lock

clean:
	rm -rf $(VENV) build
