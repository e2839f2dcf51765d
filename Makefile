# make demo    the whole flow on real video, ending in runs/demo/report.html
# make test    lint and tests            make bench    benchmarks
# make lint    ruff, mypy, prose         make nightly  long endurance tests
#
# Each sets itself up once on a fresh clone. VIDEOS=path-or-uri runs the demo on your own videos,
# ARGS="…" is added to the command.

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint bench nightly
.DELETE_ON_ERROR:

# Passed verbatim through the environment: a name may contain $, quotes, spaces and #.
unexport VIDEOS
demo: export OWN_VIDEOS = $(value VIDEOS)
demo: .venv/.done
	$(BIN)/vitascope demo $(if $(value VIDEOS),--videos="$$OWN_VIDEOS") $(ARGS)

test: lint .venv-moto/.done .servers/.done
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/.done
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --quiet --check
	$(BIN)/mypy --no-error-summary
	$(BIN)/python tests/prose.py

bench: .venv/.done
	$(BIN)/python jobs/bench/plan.py
	$(BIN)/python jobs/bench/train_step.py
	$(BIN)/python jobs/bench/wan_forward.py
	$(BIN)/python jobs/bench/generate.py
	$(BIN)/python jobs/bench/buckets.py
	$(BIN)/python jobs/bench/incremental.py
	$(BIN)/python jobs/bench/makespan.py

nightly: .venv/.done .venv-moto/.done .servers/.done .servers/ceph/.done .venv/.browser
	$(BIN)/python -m pytest -m nightly $(ARGS)

.venv/.done: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Vitascope needs Python 3.11 or 3.12; name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Installing into .venv (some minutes, only once) …"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

# The S3 server of the tests; in its own environment, because its botocore differs from the one s3fs needs.
.venv-moto/.done: .venv/.done
	@$(BIN)/python -m venv .venv-moto
	@.venv-moto/bin/python $(PIP) 'moto[server]==5.2.5'
	@touch $@

# Prometheus of the tests: Debian's package, unpacked here without installing it, unless it is on the PATH.
.servers/.done:
	@mkdir -p .servers
	@{ command -v prometheus && command -v promtool; } >/dev/null || { cd .servers && \
		{ apt-get download prometheus || { apt-get update && apt-get download prometheus; }; } >apt.log 2>&1 && \
		dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb; } || \
		{ cat .servers/apt.log; echo "The tests need prometheus and promtool on the PATH"; exit 2; }
	@touch $@

# The S3 server of the nightly tests: Ceph, which keeps its data through kill -9; Debian's packages, unpacked here.
.servers/ceph/.done:
	@mkdir -p .servers/ceph
	@{ command -v radosgw && command -v ceph-mon && command -v ceph-osd; } >/dev/null || { cd .servers/ceph && \
		needed() { apt-get install --simulate --no-install-recommends radosgw ceph-mon ceph-osd | \
			sed -n 's/^Inst \([^ ]*\).*/\1/p'; } && \
		{ apt-get download $$(needed) || { apt-get update && apt-get download $$(needed); }; } >apt.log 2>&1 && \
		for deb in *.deb; do dpkg -x $$deb . && rm $$deb || exit 2; done; } || \
		{ cat .servers/ceph/apt.log; echo "The nightly tests need radosgw, ceph-mon and ceph-osd on the PATH"; exit 2; }
	@touch $@

# The browser that opens Ray's pages in the nightly tests: Debian's Chromium, driven from Python.
.venv/.browser: .venv/.done
	@command -v chromium >/dev/null || { echo "The nightly tests need Chromium on the PATH: apt-get install chromium"; exit 2; }
	@$(BIN)/python $(PIP) --constraint constraints.txt playwright
	@touch $@
