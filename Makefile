# Onsale's commands. `make` alone lists them.
# Settings are those of localstack/local.env; a variable that is set already wins.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := $(or $(ONSALE_BIN_DIR),$(or $(CARGO_TARGET_DIR),target)/release)
WITH_ENV := localstack/with-env

# Handed to the recipes through the environment and not pasted into their text: a name may hold anything.
USER ?= demo
ADMIN ?=
BUYERS ?= 3000
SALE ?=
RATE ?=
export USER ADMIN BUYERS SALE RATE

# For targets that need the programs but must not rebuild what is running.
define ensure_built
test -x $(BIN)/rush -a -x $(BIN)/stream-processor || $(MAKE) --no-print-directory build >&2
endef

.PHONY: help
help: ## this list
	@echo 'usage: make TARGET [NAME=value …]'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do \
	    printf '  %-12s %s\n' "$$name" "$$text"; done
	@echo
	@echo 'LOCAL=docker|native chooses how the services run (unset: Docker if an engine answers, else native).'
	@echo 'A first look: make run. To work with it: make up, then make rush SALE=…, make audit, make down.'

.PHONY: run
run: build ## start everything, put a demo sale on, send it a rush, stay until Ctrl-C
	@exec localstack/demo

.PHONY: up
up: build ## start everything in the background; again: revives what died, restarts what was rebuilt
	@localstack/cloud up

.PHONY: down
down: ## stop everything; data stays
	@localstack/cloud down

.PHONY: status
status: ## what runs, with pids, ports and logs
	@localstack/cloud status || true

.PHONY: logs
logs: ## follow all logs
	@localstack/cloud logs

.PHONY: build
build: ## install what is missing on this machine and build the release programs
	@localstack/cloud install build serve
	cargo build --release --locked --bin gateway --bin stream-processor --bin rush

.PHONY: test
test: ## everything the tests need, then all tests; the last line says how many passed
	@exec localstack/test

.PHONY: check
check: ## formatting, lints, documentation, licences, scripts, compose file
	@localstack/check

.PHONY: token
token: ## print a token: make token USER=alice [ADMIN=1]
	@$(ensure_built)
	@$(WITH_ENV) $(BIN)/rush token --user "$$USER" $(if $(filter-out 0,$(ADMIN)),--admin)

.PHONY: rush
rush: ## send a sale a rush: make rush SALE=demo BUYERS=20000 [RATE=2000, buyers per second]
	@test -n "$$SALE" || { echo 'which sale? make rush SALE=… BUYERS=… [RATE=…]' >&2; exit 2; }
	@$(ensure_built)
	@$(WITH_ENV) $(BIN)/rush run --buyers "$$BUYERS" --sale "$$SALE" $(if $(RATE),--rate "$$RATE")

.PHONY: audit
audit: ## check the running system: nothing oversold, nothing lost, Redis and ledger agree
	@$(ensure_built)
	@$(WITH_ENV) $(BIN)/stream-processor audit

.PHONY: clean-local
clean-local: ## stop everything and delete the local data and logs
	@localstack/cloud clean
