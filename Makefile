# `make` lists the commands. Each sets itself up; ARGS goes to what it runs: make demo ARGS="--orders 50 --exit"

.DEFAULT_GOAL := help
.PHONY: help demo serve test faults bench check hooks format docs audit lock clean setup-run setup-dev

python := .venv/bin/python
ARGS ?=
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

help: ## List the commands
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1~\2/p' Makefile | awk -F '~' '{ printf "%-14s %s\n", $$1, $$2 }'

demo: setup-run ## Show it working: two shops, two management systems, real processes, a table at the end
	@$(python) -m sandbox.demo $(ARGS)

serve: setup-run ## Serve on this machine: SQLite and SQS in memory, or what INTEGRATOR_… names
	@$(python) -m sandbox.serve $(ARGS)

test: setup-dev ## Run the tests in random order, in JOBS processes (one more than there are cores: tests wait)
	@$(python) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

faults: setup-dev ## Take parts away under load and bring them back (ARGS="--seed 7 --rounds 2 --only sqs-stopped")
	@$(if $(ARGS),,TRANSPORT_ROUNDS=100 TRANSPORT_EXAMPLES=100 $(python) -m pytest -q tests/transport)
	@$(python) -m tests.e2e.faults $(ARGS)

bench: setup-dev ## Measure: every benchmark, one line of JSON each (ARGS=--short for a look; docs/performance.md)
	@set -e; for one in ingest transport pipeline pools shares limits dispatch fairness flood outage quota fairness_sim hostile; do \
		echo "== benchmarks.$$one" >&2; $(python) -m benchmarks.$$one $(ARGS); done

check: setup-dev ## Check style, format, types and which package may import which
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy
	@.venv/bin/lint-imports

hooks: setup-dev ## Run `make check` before each commit from now on
	@hook=$$(git rev-parse --git-path hooks)/pre-commit; \
	if [ -e "$$hook" ] && ! grep -q 'exec make check' "$$hook"; then \
		echo "There is a hook already; add \`make check\` to $$hook." >&2; exit 1; fi; \
	mkdir -p "$${hook%/*}" && printf '#!/bin/sh\nexec make check\n' >"$$hook" && chmod +x "$$hook" && \
	echo "make check runs before each commit ($$hook)."

format: setup-dev ## Format the code, and fix what can be fixed
	@$(python) -m ruff check --fix-only .
	@$(python) -m ruff format .

docs: setup-dev ## Write the pages of docs/reference that are made from the code
	@$(python) -m integrator.reference docs/reference

audit: setup-dev ## Look the locked packages up in the vulnerability database (needs the internet)
	@$(python) -m pip_audit --require-hashes --disable-pip -r requirements/run.txt

lock: setup-dev ## Lock the dependencies anew, with hashes (ARGS=--upgrade takes newer ones)
	@$(lock) pyproject.toml requirements/build.in --extra sandbox -o requirements/run.txt
	@$(lock) pyproject.toml requirements/build.in --extra sandbox --extra traces --extra dev -c requirements/run.txt -o requirements/dev.txt
	@$(lock) pyproject.toml --extra traces --extra flower -c requirements/run.txt -o requirements/image.txt
	@$(lock) requirements/build.in -c requirements/run.txt -o requirements/build.txt

clean: ## Remove what can be made again: .venv, caches, the demo's data; not what `make serve` keeps
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist var/demo
	rm -rf *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock = $(python) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header $(ARGS)

setup-run:
	@bin/setup run

setup-dev:
	@bin/setup dev
