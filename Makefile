# Every target does its own set-up: `make test` and `make demo` work on a machine that has Go and nothing else.
# The work is in scripts/; CI calls these targets and never a script of its own.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check race fuzz bench figures site lint vulncheck fmt build clean house hooks

PKG  ?= ./...
AREA ?=
ARGS ?=

help: ## list the targets
	@echo "usage: make TARGET [VAR=value]"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
	  awk -F ':.*## ' '{ printf "  %-10s %s\n", $$1, $$2 }'

demo: ## run the four main jobs on real input (the machine's Go tree); ARGS="--only dns" for one
	@scripts/setup.sh demo
	@scripts/demo.sh $(ARGS)

test: ## everything: format, vet, lint, unit, race, fuzz smoke, privileged tests; under 25 minutes on 2 cores
	@scripts/test.sh all

check: ## the contributor's loop: format, vet, lint, import graph, unit tests; about two minutes warm
	@scripts/test.sh check

race: ## tests with the race detector and the invariants build tag; PKG=./internal/ranges/... to narrow
	@scripts/test.sh race $(PKG)

fuzz: ## run every fuzz target; FUZZTIME=30s each, PKG=./soci/... to narrow
	@scripts/test.sh fuzz $(PKG)

bench: ## run one area's benchmarks beside its peers; AREA=engine|image|inflate|cast|dns|csi, ARGS="-quick"
	@scripts/bench.sh "$(AREA)" $(ARGS)

figures: ## write the figures of README.md and docs from the newest recorded results
	@scripts/figures.sh

site: ## build the documents as a static site in site/; fails on a broken link
	@scripts/site.sh

lint: ## golangci-lint at the pinned version (its first build takes a few minutes)
	@scripts/test.sh lint

house: ## the rules of the house: import graph, documents, plain English, unreachable code
	@scripts/test.sh house

hooks: ## check the message of each commit in this clone (git config core.hooksPath)
	@git config core.hooksPath .githooks

vulncheck: ## look the dependencies up in Go's vulnerability database; fails when that cannot be done
	@scripts/test.sh vulncheck

fmt: ## format the tree (gofumpt and import groups)
	@scripts/test.sh fmt

build: ## build every program into bin/
	@scripts/build.sh

clean: ## remove bin/, site/, the tools and the test logs
	@rm -rf bin site .tools demo.json
