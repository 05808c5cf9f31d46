# Two commands do everything on a fresh machine with Python 3.11+ and make:
#   make demo    run the whole system on this machine
#   make test    run the tests

PYTHON ?= python3
# The version of uv that is installed in .tools if there is no uv yet. Nothing outside of this folder is changed.
UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
RUN := .venv/bin
# A test run uses two processes, one per core; threads of numpy's libraries would only compete with them. Where the C library
# is glibc, it keeps freed memory: returning and fetching it again costs a tenth of the time.
KEEPING := GLIBC_TUNABLES=glibc.malloc.tcache_count=65535:glibc.malloc.trim_threshold=268435456:glibc.malloc.mmap_threshold=67108864
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(KEEPING) $(RUN)/pytest
SYNCED := .venv/.synced

.DEFAULT_GOAL := help
.PHONY: help install demo dashboard test test-quick test-slow test-kafka test-snowflake test-lake test-docker test-wheel test-warm fuzz check test-ui lint check-lock format dbt-vars config-docs event-docs audit reliability layers docs screenshots benchmark-ingest benchmark-refresh benchmark-lag benchmark-latency benchmark-idle benchmark-shared-lake soak benchmark-effect benchmark-scoring benchmark-model benchmark-questions benchmark-dashboard benchmark-search clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

.tools/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.x")'
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet uv==$(UV_VERSION)

$(SYNCED): pyproject.toml uv.lock | $(filter .tools/bin/uv,$(UV))
	$(UV) sync --frozen --compile-bytecode --python $(PYTHON)
	@touch $@

install: $(SYNCED)  ## Install what uv.lock pins into .venv

demo: $(SYNCED)  ## Run broker, bank, producer and Dagster on this machine until Ctrl-C
	$(RUN)/churn demo $(ARGS)

dashboard: $(SYNCED)  ## Show the dashboard of CHURN_HOME on http://127.0.0.1:8501 until Ctrl-C
	$(RUN)/churn dashboard $(ARGS)

test: $(SYNCED)  ## Run the tests; for one part: make test ARGS=churn_assets_tests/retention
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-quick: $(SYNCED)  ## Run what needs no dbt, Dagster or training: of one part within a minute, with ARGS as above
	$(PYTEST) -n 2 --dist loadfile -m "not (heavy or ui or slow or kafka or emulator or snowflake or wheel or docker or shared_lake)" $(ARGS)

test-slow: $(SYNCED)  ## Run the slower tests: a whole demo, the warm launcher, killed processes, many random histories
	$(PYTEST) -n 3 --dist worksteal -m slow $(ARGS)

fuzz: $(SYNCED)  ## Feed the decoder with hostile messages, ARGS="--minutes=30" of CPU
	$(RUN)/python -m churn_assets_tests.ingestion.fuzz_decoder $(ARGS)

check: $(SYNCED)  ## Run the whole graph on a small bank and fail on any failed asset check
	$(RUN)/churn check

# The jars of Apache Kafka, and Apicurio Registry, for the tests, from Maven; needs Java 17.
.tools/kafka: churn_assets_tests/ingestion/apache_kafka.pom.xml
	mvn --batch-mode --quiet --file $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$@
	@touch $@

test-kafka: $(SYNCED) .tools/kafka  ## Run the tests against Apache Kafka and Apicurio Registry (needs Java 17, Maven)
	$(RUN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --kafka .tools/kafka -m "not slow" churn_assets_tests/ingestion $(ARGS)

test-snowflake: $(SYNCED)  ## Run the tests of the Snowflake side, against an emulator on this machine
	$(PYTEST) -n 2 --dist loadfile -m "emulator or not (slow or kafka or ui or snowflake)" churn_assets_tests/snowflake $(ARGS)

# What is the same on any lake, where the most can go wrong.
ON_ANY_LAKE := $(addprefix churn_assets_tests/,ingestion retention model/test_registry.py operations/test_setbacks.py \
	automation/test_wrong_clocks.py warehouse/test_shared_lake.py)

test-lake: $(SYNCED)  ## Run the tests that write to a lake on PostgreSQL and S3 (needs PostgreSQL)
	TEST_ROUNDS=0.02 $(PYTEST) -n 2 --dist loadfile --shared-lake -m "not (kafka or ui)" $(ON_ANY_LAKE) $(ARGS)

test-docker: $(SYNCED) .tools/kafka  ## Run docker-compose.yml in real containers: a Docker engine is started where none runs (needs root, Chromium)
	$(RUN)/pytest -m docker churn_assets_tests/containers $(ARGS)

test-wheel: $(SYNCED)  ## Install the wheel into a new environment and run it in an empty folder
	$(RUN)/pytest -m wheel churn_assets_tests/test_wheel.py $(ARGS)

# Dagster's private parts, which the launcher needs, change between minor versions; the project's own tests have the newest.
test-warm: $(SYNCED)  ## Test the launcher with the minor version of Dagster before the newest
	.tools/bin/uv run --quiet --isolated --no-project --python $(PYTHON) --with "dagster==1.12.*" --with "dagster-webserver==1.12.*" --with pytest --with hypothesis \
		python -m pytest --confcutdir churn_assets_tests/dagster_warm -m "not slow" churn_assets_tests/dagster_warm $(ARGS)

test-ui: $(SYNCED)  ## Test a running demo in headless Chromium (needs chromium)
	$(RUN)/pytest -n 2 --dist loadfile -m ui $(ARGS)

benchmark-ingest: $(SYNCED) .tools/kafka  ## Measure ingestion against its limits and other tools (needs Java 17, Maven)
	PATH="$(CURDIR)/.tools/bin:$$PATH" $(RUN)/python -m benchmarks.ingest $(ARGS)

benchmark-refresh: $(SYNCED)  ## Measure incremental refreshes against a full recompute, one statement and chDB
	PATH="$(CURDIR)/.tools/bin:$$PATH" $(RUN)/python -m benchmarks.refresh $(ARGS)

benchmark-lag: $(SYNCED)  ## Measure the lag of the predictions for twenty minutes
	$(RUN)/python -m benchmarks.lag $(ARGS)

benchmark-latency: $(SYNCED)  ## Measure the latency from event to score and email, with the warm and the default launcher
	$(RUN)/python -m benchmarks.latency $(ARGS)

benchmark-idle: $(SYNCED)  ## Measure an idle system for ten minutes
	$(RUN)/python -m benchmarks.idle $(ARGS)

benchmark-shared-lake: $(SYNCED)  ## Measure a lake on PostgreSQL and S3 beside one in a folder (needs PostgreSQL)
	$(RUN)/python -m benchmarks.shared_lake $(ARGS)

soak: $(SYNCED)  ## Run a demo for an hour, kill its runs now and then, and fail if it grows, ARGS="--hours 8"
	$(RUN)/python -m benchmarks.soak $(ARGS)

benchmark-effect: $(SYNCED)  ## Compare the estimated effect of emails with the effect that the simulator gives them
	$(RUN)/python -m benchmarks.effect $(ARGS)

benchmark-questions: $(SYNCED)  ## Count right and wrong answers to the shipped questions, without a language model
	$(RUN)/pytest -s -k wrongly churn_assets_tests/analyst/test_question_set.py $(ARGS)

benchmark-scoring: $(SYNCED)  ## Measure scoring against scikit-learn and compiled forests
	$(RUN)/python -m benchmarks.scoring $(ARGS)

benchmark-model: $(SYNCED)  ## Compare the families of models with other libraries; installs these
	$(UV) sync --frozen --quiet --group benchmark --python $(PYTHON)
	$(RUN)/python -m benchmarks.model $(ARGS)

benchmark-dashboard: $(SYNCED)  ## Measure the dashboard's response times in a browser (needs chromium)
	PYTHONPATH=. $(RUN)/python -m benchmarks.dashboard $(ARGS)
benchmark-search: $(SYNCED)  ## Measure the search's quality and speed, and those of other tools
	PATH="$(CURDIR)/.tools/bin:$$PATH" $(RUN)/python -m benchmarks.search $(ARGS)

lint: $(SYNCED)  ## Check style, types and the manifests for Kubernetes
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/lint-imports
	$(RUN)/pyright
	CHURN_LAKE=$$(mktemp -d) $(RUN)/sqlfluff lint dbt/models
	$(RUN)/sqlfluff lint --templater raw --config sql/.sqlfluff sql/*.sql churn_assets/dynamic_tables/schema.sql
	$(RUN)/sqlfluff lint --templater jinja --config sql/snowflake/.sqlfluff sql/snowflake
	$(RUN)/python -m churn_assets_tests.containers.kubernetes

check-lock: | $(filter .tools/bin/uv,$(UV))  ## Check that uv.lock fits pyproject.toml
	$(UV) lock --check

# Known weaknesses that are accepted, each with its reason: --ignore-vuln ID in AUDIT_ACCEPTED. There is none at present.
AUDIT_ACCEPTED :=
audit: | $(filter .tools/bin/uv,$(UV))  ## Look for known weaknesses in what uv.lock pins (needs pypi.org)
	$(UV) export --frozen --quiet --no-emit-project --all-extras --no-dev | \
		$(UV) tool run pip-audit@2.10.0 --requirement /dev/stdin --disable-pip --strict $(AUDIT_ACCEPTED)

reliability: $(SYNCED) .tools/kafka  ## Run the tests of faults and write docs/reliability.md from their results
	$(RUN)/python docs/write_reliability.py $(ARGS)

format: $(SYNCED)  ## Format the code
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

dbt-vars: $(SYNCED)  ## Write the rules of rules.py into dbt_project.yml
	$(RUN)/python -m churn_assets.operations.dbt_vars

config-docs: $(SYNCED)  ## Write docs/configuration.md and docs/churn.schema.json from the rules
	$(RUN)/python -m churn_assets.operations.configuration_docs

event-docs: $(SYNCED)  ## Write docs/events.md and docs/events.schema.json from the event contract
	$(RUN)/python -m churn_assets.ingestion.contract

layers: $(SYNCED)  ## Draw docs/layers.svg from the import contracts of pyproject.toml
	$(RUN)/python docs/draw_layers.py

docs: $(SYNCED)  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict

screenshots: $(SYNCED)  ## Take the README's screenshots from a running demo (needs chromium)
	PYTHONPATH=. $(RUN)/python docs/take_screenshots.py

clean:  ## Remove everything installed and built, but not .churn, which holds the lake
	rm -rf .venv .tools site dbt/target dbt/logs .pytest_cache .ruff_cache .hypothesis
