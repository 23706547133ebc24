# Carbonseal: every task a person runs from the checkout.
SHELL := /bin/bash
PY := .venv/bin/python

.PHONY: ns
ns: ## the link farm on which static tools see the folders as the package carbonseal
	@mkdir -p build/ns/carbonseal
	@for room in milter keys policies; do ln -sfn ../../../$$room build/ns/carbonseal/$$room; done
