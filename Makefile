# Carbonseal: every task a person runs from the checkout.  `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
ROOMS := policies keys milter

.PHONY: help setup test demo run check ns bench bench-archive bench-quick clean soak soak-rotation \
  deb deb-lock manuals test-crash test-follow test-fresh test-long test-many test-outage test-package

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install the Debian packages, the virtualenv and the product (quick when all is there)
	@sh packaging/setup.sh

ns: ## link farms on which static tools see the folders as the package carbonseal
	@mkdir -p build/ns/carbonseal
	@for room in $(ROOMS); do ln -sfn ../../../$$room build/ns/carbonseal/$$room; done
	@# The import linter wants regular packages: the same files beside empty __init__.py.
	@rm -rf build/lint && mkdir -p build/lint/carbonseal && touch build/lint/carbonseal/__init__.py
	@for room in $(ROOMS); do \
	  mkdir -p build/lint/carbonseal/$$room && touch build/lint/carbonseal/$$room/__init__.py; \
	  for file in $$room/*.py; do ln -sfn ../../../../$$file build/lint/carbonseal/$$file; done; \
	done
	@for package in milter/archive milter/copies milter/follow milter/migrate milter/status milter/supervision keys/publication keys/relays keys/takeover; do \
	  cp -r $$package build/lint/carbonseal/$$package; \
	done

check: setup ns ## import contracts, ruff, mypy --strict
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	@# From elsewhere: in the checkout, our folder milter would pass for the module of that name.
	cd build/ns && MYPYPATH=. ../../.venv/bin/mypy --config-file ../../setup.cfg \
	  -p carbonseal.policies -p carbonseal.keys -p carbonseal.milter
	cd build/lint && PYTHONPATH=. ../../.venv/bin/lint-imports --config ../../setup.cfg --no-cache

test: setup ## everything: checks, unit, wire and real-Postfix tests; WORKERS=
	@$(MAKE) --no-print-directory check
	$(PY) -m pytest -n $(or $(WORKERS),3) --dist loadfile --no-loadscope-reorder

demo: setup ## the main job before your eyes: sign, copy, record, look up, behind a real Postfix
	@PYTHONPATH=tests $(PY) -m demo

run: setup ## serve in the foreground with a development configuration; prints the Postfix lines
	@sh packaging/run-development.sh

bench: ## measure against opendkim, rspamd and dkimpy-milter, renew docs/benchmarks (under ten minutes)
	@BENCH=1 sh packaging/setup.sh
	@PYTHONPATH=tests $(PY) -m benchmarks

bench-quick: ## the headline against opendkim in under a minute; prints only
	@BENCH=1 sh packaging/setup.sh
	@PYTHONPATH=tests $(PY) -m benchmarks --quick

bench-archive: ## fill archives on all engines with a million messages and query them (an hour or two); PHASE=load|measure, DIRECTORY=, SIZES=, ENGINES=, FULL=, ADD=1
	@BENCH=1 sh packaging/setup.sh
	@PYTHONPATH=tests $(PY) -m benchmarks.archive $(if $(SIZES),--sizes $(SIZES)) $(if $(ENGINES),--engines $(ENGINES)) \
	  $(if $(DIRECTORY),--directory $(DIRECTORY)) $(if $(FULL),--full $(FULL)) $(if $(PHASE),--$(PHASE)-only) $(if $(ADD),--add)

build/bench/load: tests/benchmarks/load.c
	@mkdir -p $(@D)
	@$(CC) -O2 -std=gnu11 -Wall -Wextra -o $@.$$$$ $< && mv $@.$$$$ $@

soak: setup ## 500,000 messages: memory stays flat, and every one is on record (some ten minutes)
	@PYTHONPATH=tests $(PY) -m benchmarks.soak $(MESSAGES)

test-long: setup ## the samples of `make test` in full: 210 kills, 1,000 domains, 400 patterns (10 minutes)
	KILLS=210 DOMAINS=1000 PATTERNS=400 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --timeout 3600 \
	  tests/postfix/test_chaos.py tests/keys/test_thousand_domains.py tests/policies/test_lookup_table.py

test-fresh: setup ## property tests with examples nobody drew before, ROUNDS= times (default 5, three minutes each)
	for round in $$(seq $(or $(ROUNDS),5)); do \
	  FRESH=1 $(PY) -m pytest -q -n 2 --dist load $$(grep -rl '@given' tests --include='*.py') || exit 1; \
	done

test-crash: setup ## kill keys commands at every system call, connections at every request (20 minutes)
	CRASH=all $(PY) -m pytest tests/keys/test_life_crash.py tests/archive/test_writer_on_servers.py \
	  -n 2 --dist load --timeout 3600

test-many: setup ## 100,000 records through two relays while servers are killed (some 25 minutes)
	MANY=$(or $(RECORDS),100000) $(PY) -m pytest tests/archive/many --timeout 3600

test-outage: setup ## the archive's host is down for five minutes while mail flows (eight minutes)
	OUTAGE=$(or $(SECONDS),300) $(PY) -m pytest tests/postfix/test_archive_outage.py -s --timeout 1800

test-follow: setup ## ten thousand messages to a sink of bad moods: SQL says what it did (six minutes)
	MESSAGES=$(or $(MESSAGES),10000) $(PY) -m pytest tests/follow/test_ten_thousand.py -s --timeout 3600

soak-rotation: setup ## rotate under mail, TURNS times for each domain (default 30, half an hour)
	ROTATIONS=$(or $(TURNS),30) $(PY) -m pytest tests/postfix/test_rotation.py -k many -s --timeout 7200

manuals: setup ## write into the man pages what the program says of itself: commands, options, keys
	@PYTHONPATH=tests $(PY) -m support.manual_pages

deb: ## build the Debian package below build/deb (REVISION= replaces the one of its changelog)
	@PACKAGE=1 sh packaging/setup.sh
	@sh packaging/deb.sh

deb-lock: ## look up the newest Python packages that fit, and write packaging/debian/*.lock anew
	@sh packaging/deb.sh lock

test-package: deb ## install, use, upgrade and purge the package in a fresh Debian (ten minutes)
	@REVISION=2 sh packaging/deb.sh
	PACKAGE=1 $(PY) -m pytest tests/packaging --timeout 3600

clean: ## remove what the targets made
	rm -rf build .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(ROOMS) -name '*.so' -delete
