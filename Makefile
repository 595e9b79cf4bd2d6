# Sluicegate: what can be run here. `make` lists it.
# Everything installs into .venv by constraints.txt; nothing outside this folder is touched but Prometheus,
# Redis and nginx (apt).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.sluicegate
# What the local stack and the tests run of the distribution's: program:package.
PROGRAMS := prometheus:prometheus promtool:prometheus redis-server:redis-server nginx:nginx

# A process for each core; the tests of a file stay together, and so does what they start.
ON_ALL_CORES := -n auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup programs radosgw check test test-unit test-simulation test-faults test-feast test-s3 demo bench-serving bench-carry bench-merge bench-repo bench-decisions lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: $(STAMP) programs ## install everything that the rest needs (2-5 minutes the first time)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Sluicegate needs Python 3.11 or newer; say which with PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

programs: # apt needs root, so anybody else is told what to do
	@PATH="$$PATH:/usr/sbin"; missing=; for each in $(PROGRAMS); do command -v $${each%%:*} >/dev/null || missing="$$missing $${each##*:}"; done; \
	[ -z "$$missing" ] || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
	  echo "Missing:$$missing. Install it and run this again: sudo apt-get install --no-install-recommends$$missing" >&2; \
	  echo "(or put the programs of another build on PATH)" >&2; exit 1; \
	fi

check: setup ## style, types, import contracts (under a minute)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup ## everything that guards main (about 14 minutes on 2 cores); what shares the one Ray comes last
	$(BIN)/pytest $(ON_ALL_CORES) -m "not e2e and not ray and not faults"
	$(BIN)/pytest -m "(e2e or ray) and not faults"

test-unit: setup ## without real parts (about 4 minutes)
	$(BIN)/pytest $(ON_ALL_CORES) -m "not real and not e2e and not faults"

test-simulation: setup ## ten thousand histories against the promises (about 40 minutes on 2 idle cores)
	SLUICE_LONG_SIMULATION=1 $(BIN)/pytest tests/simulation/test_promises.py --timeout=14400

test-faults: setup ## what accidents cost users, in requests, on the real stack; racing writers (about 25 minutes)
	$(BIN)/pytest -m faults tests/e2e tests/contracts/test_racing_writers.py

# Feast wants versions of its own, and half a gigabyte: an environment of its own beside ours.
FEAST := .sluice/feast
$(FEAST)/.installed: Makefile
	$(PYTHON) -m venv --clear $(FEAST)
	$(FEAST)/bin/pip install --disable-pip-version-check --quiet 'feast==0.67.0' cachetools pytest pytest-timeout
	@touch $@

test-feast: $(FEAST)/.installed ## the example docs/examples/feast on a real Feast (10 seconds; 1-3 minutes the first time)
	$(FEAST)/bin/python -m pytest --rootdir . docs/examples/feast

test-s3: setup radosgw ## captured traffic on Ceph's S3 gateway (1-2 minutes; 10 seconds more the first time)
	SLUICE_RADOSGW=1 $(BIN)/pytest tests/contracts/test_object_store_contract.py tests/contracts/test_captured_files.py

radosgw: # Ceph's gateway and what it stands on, from the distribution; apt needs root
	@command -v radosgw >/dev/null && command -v ceph-mon >/dev/null && command -v ceph-osd >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ceph-mon ceph-osd radosgw >/dev/null; \
	  else \
	    echo "Ceph's gateway is missing: sudo apt-get install --no-install-recommends ceph-mon ceph-osd radosgw" >&2; exit 1; \
	  fi; }

demo: setup ## three versions through real MLflow, Git, Ray Serve and Prometheus (under 5 minutes); KEEP=1 leaves it running
	$(BIN)/python -m pipelines.demo $(if $(KEEP),--keep)

bench-serving: setup ## how models are served, beside what others use (about 16 minutes on 2 idle cores; 3 more the first time; needs wrk)
	$(BIN)/python benchmarks/serving.py

bench-carry: setup ## seconds from transition to commit and from commit to live weight (about 6 minutes)
	$(BIN)/python benchmarks/carry_speed.py

bench-merge: setup ## seconds from the merge of a rollout's pull request to its first live weight (about 8 minutes)
	$(BIN)/python benchmarks/merge_speed.py

bench-repo: setup ## what a config repo of 1,000 models costs: reading, and one look (about 6 minutes)
	$(BIN)/python benchmarks/repo_speed.py

bench-decisions: setup ## how good decisions are, beside the rules of others (about 10 minutes on 2 idle cores)
	$(BIN)/python benchmarks/decision_quality.py

lock: $(STAMP) ## write constraints.txt anew from what is installed
	$(BIN)/pip freeze --exclude-editable | sed -E 's/\+cpu$$//; /@ file:/d' > constraints.txt

clean: ## remove what was built; stop a stack first
	rm -rf $(VENV) .sluice build *.egg-info
