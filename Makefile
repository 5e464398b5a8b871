# Keystile. `make demo` shows the main job on one machine, `make test` passes the tests; both fetch what they
# need under target/ and need no root.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# What runs in the local world, all in the one optimised profile.
BINARIES := keystile-cli keystile-proxy keystile-world keystile-discover keystile-sync-labels keystile-rotate keystile-access keystile-valkey-iam

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: world ## the main job, step by step, on this machine
	@tests/demo/run

test: world ## all tests
	@tests/run

up: world ## leave the local world running; target/local/env says where things are
	@target/release/keystile-world up

down: ## stop the local world
	@if [ -x target/release/keystile-world ]; then target/release/keystile-world down; else echo "nothing is running: it was never built"; fi

world: packages build

packages: # real Valkey and the AWS emulator, unpacked under target/local
	@tests/world/setup/packages

build: packages
	@echo "building (the first time takes some minutes)"
	@cargo build --release --locked $(addprefix -p ,$(BINARIES))

suites: ## other people's test suites, directly and through the proxy of the running world
	@tests/suites/run

bench: world ## CPU for each request beside a direct connection and a bare TLS relay
	@tests/bench/run

check: ## formatting, clippy, cargo deny, the templates
	@infra/checks/tools
	@infra/checks/rust
	@infra/checks/templates

sam: ## build the Lambda packages with SAM and cargo-lambda, for x86_64
	@infra/checks/tools
	@infra/checks/sam-build

docs-iam: # docs/IAM.md from the templates
	@target/tools/templates/bin/python infra/checks/iam.py > docs/IAM.md

.PHONY: help demo test suites up down world packages build bench check sam docs-iam
