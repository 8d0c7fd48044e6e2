# `make demo` and `make test` do all set-up on a fresh Debian machine with Rust and git.
.PHONY: demo test bench gpu setup

setup:
	@.ci/bootstrap

demo: setup
	cargo build --release -p moec
	target/release/moec run dsl-examples/deepseek_v3.moe --deploy one_node --picture target/traffic.svg
	@echo "the traffic matrix as a picture: target/traffic.svg"

test: setup
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --workspace; else cargo test --workspace --lib --bins --tests; fi
	cargo test --workspace --doc

bench: setup
	cargo build --release -p moec
	cargo bench -p moe-tests --bench figures

# On a machine with an NVIDIA GPU: everything that runs on one, compared with the reference bit for bit.
gpu: setup
	cargo build --release -p moec
	tests/gpu.sh target/release/moec
	cargo test --release -p moec --test culprit
