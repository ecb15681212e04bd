# Two commands matter: `make up` and `make down`. `make help` prints them all.
# Settings on the command line: STACK=docker|native, YES=1 (install what is missing without asking), ALPHA_PANDA_HOME=<folder>.

BOOTSTRAP := ./docker/bootstrap.sh
BIN := .venv/bin
ALPHA := $(BIN)/alpha-panda

.DEFAULT_GOAL := help
.PHONY: help setup up down run status logs lint format test audit bench chaos clean

help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  \033[1m%-8s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install into .venv and .tools, write .env with generated passwords; start nothing
	@$(BOOTSTRAP) setup
	@$(ALPHA) setup

up: ## Start everything, wait until all is healthy, say where to look (again: changes nothing, or what changed)
	@$(BOOTSTRAP) up
	@$(ALPHA) up

down: ## Stop everything; loses nothing, leaves no process
	@if [ -x $(ALPHA) ]; then $(ALPHA) down; else echo "  Nothing is installed here, so nothing runs."; fi

run: ## Everything in the foreground with readable logs; Ctrl-C stops it cleanly
	@$(BOOTSTRAP) run
	@exec $(ALPHA) run

status: ## A table of every part: state, pid, port, memory, lag, and why it is not ready
	@if [ -x $(ALPHA) ]; then $(ALPHA) status; else echo "  Nothing is installed here: make up."; fi

logs: ## Follow the logs of all parts, or of one: make logs SERVICE=portfolio
	@$(ALPHA) logs $(SERVICE)

lint: ## Style, types, import contracts, security, and that no code mixes brokers
	@$(BOOTSTRAP) tools
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m cli.lint_routing
	@$(BIN)/bandit -q -r -c pyproject.toml core strategies streams workflows activities control api sandbox cli docker

format: ## Put all code into the one style
	@$(BOOTSTRAP) tools
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test: ## Install, lint, run every test layer on two stacks of its own, stop them (ARGS="-k name" picks tests)
	@$(BOOTSTRAP) test
	@$(MAKE) --no-print-directory lint
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

audit: ## Ask an advisory service about every pinned version; says so where none can be asked (AUDIT_SERVICE=osv)
	@$(BOOTSTRAP) tools
	@$(BIN)/python -m docker.audit

bench: ## Print figures: durable orders/s, latencies, what open dashboards cost, ticks/s, memory, on a stack of its own
	@$(BOOTSTRAP) test
	@$(BIN)/pytest tests/performance -m bench -s -q $(ARGS)

chaos: ## Kill, freeze and fault everything while both brokers trade; a referee judges (ORDERS=1000 SEED=…)
	@$(BOOTSTRAP) test
	@$(BIN)/python -m tests.chaos $(if $(ORDERS),--orders $(ORDERS)) $(if $(SEED),--seed $(SEED)) $(ARGS)
	@$(BIN)/pytest tests/e2e/test_crash_points.py -m freeze -q -s

clean: ## Remove what can be made again; data stays (DATA=1 removes it, after a typed confirmation)
	@$(BOOTSTRAP) clean
