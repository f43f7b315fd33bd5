# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The commands of a checkout. Each may be run in any order, any number of times, and be interrupted.
.DEFAULT_GOAL := help
.PHONY: help venv demo test test-full lint bench clean
SHELL := /bin/bash

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: ## Make .venv: ansible-playbook, and all that the modules, tests and lints use
	@scripts/venv

demo: ## Set up a demo Central, back it up, verify the set, say how to check it without us; destroy the Central and restore it
	@scripts/demo

test: ## Run the unit and integration tests (ARGS="-k name" for some of them)
	@scripts/test $(ARGS)

test-full: ## The same with the long campaigns, and with other versions of Ansible
	@scripts/test-full $(ARGS)

lint: ## Run all static checks: ruff, mypy, ansible-lint, ansible-test sanity, docs, changelog
	@scripts/lint

bench: ## Measure speed and memory against curl and against openssl and pg_restore (takes minutes)
	@scripts/bench $(ARGS)

clean: ## Undo all of the above: containers, images, volumes, environments, caches, the demo's backups
	@scripts/clean
