# `make demo` and `make test` do all set-up on a fresh Debian machine with Rust and git.
.PHONY: demo test test-python test-torch wheels bench judge gpu install setup

setup:
	@.ci/bootstrap

demo: setup
	cargo build --release -p moec
	target/release/moec run dsl-examples/deepseek_v3.moe --deploy one_node --picture target/traffic.svg
	@echo "the traffic matrix as a picture: target/traffic.svg"

test: setup
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --workspace; else cargo test --workspace --lib --bins --tests; fi
	cargo test --workspace --doc
	for features in "" cuda virtual; do cargo check -q -p moe-runtime --lib --no-default-features --features "$$features" || exit 1; done
	cargo build -q --workspace --bin moec
	.ci/python

# The Python package alone, after `make test` or with MOEC=…: without torch, and with it (5 GB, kept in target).
test-python:
	.ci/python

test-torch:
	.ci/python torch

# The wheels moe_runtime and moec, tried together in a fresh environment.
wheels: setup
	.ci/wheels

# The tool, its completions and its man pages, and the runtime for C, for whoever calls it: PREFIX=/usr/local for all.
PREFIX ?= $(HOME)/.local
install: setup
	cargo install --locked --path compiler/cli --root "$(PREFIX)"
	mkdir -p "$(PREFIX)/share/man/man1" "$(PREFIX)/share/bash-completion/completions" \
	    "$(PREFIX)/share/zsh/site-functions" "$(PREFIX)/share/fish/vendor_completions.d"
	"$(PREFIX)/bin/moec" completions bash > "$(PREFIX)/share/bash-completion/completions/moec"
	"$(PREFIX)/bin/moec" completions zsh > "$(PREFIX)/share/zsh/site-functions/_moec"
	"$(PREFIX)/bin/moec" completions fish > "$(PREFIX)/share/fish/vendor_completions.d/moec.fish"
	"$(PREFIX)/bin/moec" man > "$(PREFIX)/share/man/man1/moec.1"
	for command in check fmt build inspect run gate plan simulate place serve ptx explain init completions man schema; do \
	    "$(PREFIX)/bin/moec" man $$command > "$(PREFIX)/share/man/man1/moec-$$command.1" || exit 1; done
	cargo build --release -p moe-capi
	install -D -m 644 runtime/capi/include/moe_runtime.h "$(PREFIX)/include/moe_runtime.h"
	install -D target/release/libmoe_capi.so "$(PREFIX)/lib/libmoe_capi.so"
	install -D -m 644 runtime/capi/packaging/moe_runtime.pc "$(PREFIX)/lib/pkgconfig/moe_runtime.pc"
	install -D -m 644 runtime/capi/packaging/moe_runtime-config.cmake "$(PREFIX)/lib/cmake/moe_runtime/moe_runtime-config.cmake"

bench: setup
	cargo build --release -p moec
	cargo bench -p moe-tests --bench figures
	cargo build -q --workspace --bin moec
	.ci/python figures

# Takes every order, scope, flag, wait and barrier from every kernel, one at a time, and says who notices: the matrix of docs/judge.md, and every
# mutant in target/kill_matrix.json. WORD=barrier tries the kernels of that name, ALL=1 all that differ in more than numbers; both leave the page alone.
judge: setup
	cargo bench --workspace --bench kill_matrix --profile dev -- \
	    $(WORD) $(if $(ALL),--all) $(if $(WORD)$(ALL),,--page $(CURDIR)/docs/judge.md) \
	    --json $(CURDIR)/target/kill_matrix.json

# On a machine with an NVIDIA GPU: everything that runs on one, compared with the reference bit for bit.
gpu: setup
	cargo build --release -p moec
	tests/gpu.sh target/release/moec
	cargo test --release -p moe-tests --test communicator stopped
	cargo test --release -p moe-tests --test processes_on_gpu
	cargo bench -p moe-tests --bench ceilings
