# Commands for contributors and newcomers. `make` without a target lists them.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# The demo needs a quarter of the packages, so a newcomer waits less.
DEMO_STAMP = $(VENV)/.demo
# A file stays in one process, which has a broker of its own. In the order of collection: the files of tests/chaos
# take longest, so they must start first.
IN_PARALLEL = --dist loadfile --no-loadscope-reorder -n
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
# Tests wait more than they compute, so twice as many processes as CI has cores.
JOBS ?= 4
SECONDS ?=
SYMBOLS ?=
PERIOD ?=
MINUTES ?=
SEED ?=
# --unfenced: the control, which must fail.
UNFENCED ?=
AUDIT ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check chaos audit sbom fuzz bench docs site dist try-dist runbooks lock

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP) ## set up .venv, with every package pinned by hash

$(STAMP): requirements/dev.txt pyproject.toml
$(DEMO_STAMP): requirements/demo.txt pyproject.toml
$(STAMP) $(DEMO_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@echo 'setting up $(VENV) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python requirements/install.py $<
	@$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP)) ## run a local Kafka, the simulator and a connector, and print the events (SECONDS=30 SYMBOLS=BTCUSDT,ETHUSDT PERIOD=30)
	@$(BIN)/gex-connector demo $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SYMBOLS),--symbols $(SYMBOLS)) \
		$(if $(PERIOD),--period $(PERIOD))

check: install sbom ## check style, types, layers, pages and their links, schemas, installed packages and known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy deploy/grafana/generate.py
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -q -p no:cacheprovider tests/contract/test_schemas.py tests/contract/test_docs.py tests/contract/test_site.py tests/contract/test_metric_names.py tests/contract/test_dashboards.py tests/contract/test_rules.py
	$(BIN)/zizmor --quiet --offline .github
	$(BIN)/pip check
	$(BIN)/python -m tests.support.audit $(AUDIT)

audit: install ## look up known vulnerabilities of pinned packages; unlike `check`, fail if the database does not answer
	$(BIN)/python -m tests.support.audit --strict $(AUDIT)

sbom: install ## write dist/sbom.cdx.json: the production packages with versions and hashes (CycloneDX, validated)
	@mkdir -p dist
	$(BIN)/python -W ignore -m cyclonedx_py requirements requirements/run.txt --pyproject pyproject.toml --output-reproducible --validate -o dist/sbom.cdx.json

test: install ## run unit, property, contract and integration tests and a short chaos run, with real Kafka and registry
	$(BIN)/pytest -m 'not system and not long' $(IN_PARALLEL) $(JOBS)

test-all: test ## run also long chaos scenes, and tests that need root and the packages of .ci/run
	$(BIN)/pytest -m 'system or long' $(IN_PARALLEL) $(JOBS)

chaos: install ## inject seeded faults into brokers, topics, workers, network, registry and upstream, and judge the events (MINUTES=20 SEED=1)
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),20) $(if $(SEED),--seed $(SEED)) $(UNFENCED)

fuzz: install ## try more inputs for the property tests than `test`; prints its seed (MINUTES=10 SEED=)
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

bench: install ## benchmark schedules and worker in ten minutes (BENCH=--quick: two); not tests.bench.capacity, .month_live and .outage
	$(BIN)/python -m tests.bench.schedule $(BENCH)
	$(BIN)/python -m tests.bench.schedule.speed
	$(BIN)/python -m tests.bench --json bench.json $(BENCH)

docs: install ## write the generated pages and dashboards
	$(BIN)/python -m connector.devkit.reference configuration > docs/reference/configuration.md
	$(BIN)/python -m connector.devkit.reference events > docs/reference/events.md
	$(BIN)/python -m connector.devkit.reference metrics > docs/reference/metrics.md
	$(BIN)/python -m connector.devkit.reference schemas > docs/reference/schemas.md
	$(BIN)/python -m connector.devkit.reference simulator > docs/reference/simulator.md
	$(BIN)/python -m connector.devkit.reference asyncapi > schemas/asyncapi.json
	$(BIN)/python -m connector.devkit.reference openapi > connector/web/page/openapi.json
	$(BIN)/python deploy/grafana/generate.py
	cd deploy && { printf 'apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: gex-connector\nspec:\n'; \
		sed 's/^./  &/' prometheus/rules.yml; } > kubernetes/components/monitoring/prometheusrule.yaml

site: install ## build the documentation site in build/site; a warning or a link to nowhere is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/site
	@echo 'open build/site/index.html'

dist: install ## build dist/*.whl and dist/*.tar.gz: the same sources give the same bytes
	rm -f dist/*.whl dist/*.tar.gz
	$(BIN)/python -m hatchling build -d dist

# Without the Python of Debian's trixie, which needs root: PYTHON=python3.13 VENV=.venv-3.13 tries any other.
try-dist: install ## compare dist/ with another build, and try the wheel where nothing else is installed
	rm -rf build/dist
	$(BIN)/python -m hatchling build -d build/dist
	cmp dist/*.whl build/dist/*.whl
	cmp dist/*.tar.gz build/dist/*.tar.gz
	$(BIN)/pytest -n0 -k 'not trixie' tests/system/test_distribution.py

runbooks: ## set the address of the runbooks in the alerts (URL=https://git.example.org/gex/docs/how-to/runbooks.md)
	@test -n "$(URL)" || { echo 'set URL=https://...' >&2; exit 2; }
	sed -i -E 's|(runbook_url: )[^#]*#|\1$(URL)#|' deploy/prometheus/rules.yml deploy/prometheus/tests/*.yml \
		deploy/kubernetes/components/monitoring/prometheusrule.yaml

lock: ## pin the packages of pyproject.toml (UPGRADE=--upgrade: newest versions)
	$(LOCK) --all-extras --group test --group check --group bench --group build --group deploy --group docs pyproject.toml -o requirements/dev.txt $(UPGRADE)
	$(LOCK) --extra registry --constraint requirements/dev.txt pyproject.toml -o requirements/run.txt
	printf 'editables\nhatchling\n' | $(LOCK) --extra demo --constraint requirements/dev.txt pyproject.toml - -o requirements/demo.txt
	$(LOCK) --group contract --constraint requirements/dev.txt -o requirements/contract.txt
	$(LOCK) --group languages -o requirements/languages.txt
	echo hatchling | $(LOCK) --constraint requirements/dev.txt - -o deploy/build.txt
