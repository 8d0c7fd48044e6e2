# `make demo` and `make test` do all set-up on a fresh Debian machine with Rust and git.
.PHONY: demo test bench setup

setup:
	@.ci/bootstrap

demo: setup
	cargo build --release -p moec
	target/release/moec --help

test: setup
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --workspace; else cargo test --workspace --lib --bins --tests; fi
	cargo test --workspace --doc

bench: setup
	cargo bench --workspace
