# Every target installs what it needs, and says so first: a fresh clone needs `make demo` or `make test` and nothing else.
# $AMQPQ_BROKER_URL makes tests, demo and bench use an existing broker instead of a private node.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help venv rabbitmq iproute librabbitmq lint format unit fuzz test test-matrix faults soak migrations demo bench schema pictures package clean

BIN := .venv/bin
PYTEST := CI=true $(BIN)/python -m pytest
RINGS := tests/conformance tests/integration tests/acceptance
# Further pytest arguments: make unit ARGS="-k routing"
ARGS ?=
# Test processes side by side, each with a broker of its own; a file stays in one of them. 0: all in one, for a debugger
LANES ?= 2

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/up-to-date: pyproject.toml
	@scripts/make-venv.sh

venv: .venv/up-to-date ## Make .venv with amqpq and all that tests and linters need

rabbitmq: ## Install RabbitMQ where it is missing (Debian, Ubuntu)
	@scripts/install-rabbitmq.sh

lint: venv ## ruff, ruff format, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## Format the code and apply safe fixes
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

unit: venv ## Run the tests that need no broker
	$(BIN)/python -m pytest -n $(LANES) tests/unit tests/test_*.py $(ARGS)

fuzz: venv ## Try the properties of the unit tests on many examples: AMQPQ_EXAMPLES=1000 make fuzz
	AMQPQ_EXAMPLES=$${AMQPQ_EXAMPLES:-300} $(BIN)/python -m pytest -m hypothesis tests/unit tests/fuzz $(ARGS)

iproute: # examples/two_hosts, one of the tests, lives in network namespaces
	@command -v ip >/dev/null || scripts/apt-install.sh "a test makes network namespaces with it" iproute2

test: venv rabbitmq iproute ## Run all tests, on a private RabbitMQ
	$(PYTEST) -n $(LANES) --dist loadfile $(ARGS)

test-matrix: venv iproute ## Run the rings that need a broker on RabbitMQ 4.0.5 and 4.3.6 (Debian or Ubuntu, root or sudo)
	@scripts/test-on.sh trixie -n $(LANES) --dist loadfile $(RINGS) $(ARGS)
	@scripts/test-on.sh forky -n $(LANES) --dist loadfile $(RINGS) $(ARGS)

faults: venv rabbitmq iproute ## Break everything on purpose, on each pool, queue type and version (root or sudo; see ARGS=--help)
	@$(if $(filter 0,$(shell id -u)),,sudo) $(BIN)/python -m tests.faults $(ARGS)

soak: venv rabbitmq ## A million messages through one worker whose connection is cut every few seconds
	@$(BIN)/python -m tests.faults.soak $(ARGS)

migrations: venv rabbitmq ## Change queues under load, and kill the migrating process in each step; counts every message
	@$(BIN)/python -m tests.migration $(ARGS)

demo: venv rabbitmq ## Run the inventory demo: producer, two workers, results, a forged message
	@$(BIN)/python -m examples.inventory.run

librabbitmq: # the floor of the measurements is the C client, which they build
	@[ -f /usr/include/amqp.h ] || scripts/apt-install.sh "the C client is measured too" gcc libc6-dev librabbitmq-dev

bench: venv rabbitmq librabbitmq ## Measure amqpq beside bare drivers, Celery, dramatiq, taskiq and FastStream
	@$(BIN)/python -m benchmarks

schema: venv ## Write the JSON Schema of the topology format into topology/
	@$(BIN)/python -m amqpq topology schema > topology/schema/topology-1.schema.json.new
	@mv topology/schema/topology-1.schema.json.new topology/schema/topology-1.schema.json

pictures: venv ## Draw the ready-made topologies into docs/pictures/
	@for file in topology/*.yaml; do \
	  $(BIN)/python -m amqpq topology graph $$file -o docs/pictures/$$(basename $$file .yaml).svg || exit 1; \
	done

package: venv ## Build the wheel and the source archive into dist/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build

clean: ## Remove what make made, but for the RabbitMQ folders in .brokers
	rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.brokers/*' -prune -exec rm -rf {} +
