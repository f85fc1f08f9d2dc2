# make setup       fetch libtorch and the small model into .deps (ATP_DEPS=… names another folder)
# make build       that, and the program: target/debug/atp-pipeline
# make reproduce   set up, build, run the laptop recipe: data to report, on this machine
# make test        set up, build, run all tests (the real 135M model where it matters)
# make test-kill   424 kills instead of the few of `make test`
# make test-ranks  20 kills of one of two ranks instead of the few of `make test`
# make test-slurm  jobs on a Slurm of its own on this machine (Debian: slurm-wlm, munge; as root): see scripts/slurm
# make test-gpu    what needs a Hopper GPU: the fused kernels against the plain path
# make test-coverage   the intervals in 20 000 invented worlds each instead of 1000
# make fuzz TARGET=gguf   a fuzz target of tests/fuzz, ten million executions (RUNS=… changes that)
# make deny sbom   licences, sources and advisories of dependencies; a bill of materials in target/sbom
# make dist        a release: target/dist/atp-pipeline-VERSION-x86_64-linux.tar.gz and its SHA-256 sum
# make test-browser   the report in Chromium (CHROMIUM=… names one; needs npm): see tests/browser
# make test-ecosystem   our files in transformers, peft, llama.cpp, TensorBoard, pandas, polars, DuckDB (a venv in target)
# make clean       remove what was built
# make check       format, lints, documentation, tests: what every commit must pass
# RECIPE=… chooses another recipe, RUN_ARGS=… adds options of `atp-pipeline run`

RECIPE ?= laptop
RUN_ARGS ?=
CARGO ?= cargo
PYTHON ?= python3

# What cargo would else take from `.cargo/config.toml`.
ifdef ATP_DEPS
export LIBTORCH ?= $(abspath $(ATP_DEPS))/libtorch
endif

.PHONY: help setup build reproduce test test-kill test-ranks test-slurm test-gpu test-coverage test-browser test-ecosystem check fmt clippy doc fuzz deny sbom dist clean

help:
	@sed -n '1,/^$$/s/^# //p' Makefile

setup:
	@command -v $(PYTHON) >/dev/null || { echo "setup: $(PYTHON) is missing; install python3 (3.8 or newer)" >&2; exit 1; }
	@command -v $(CARGO) >/dev/null || { echo "setup: cargo is missing; install Rust from https://rustup.rs" >&2; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || { echo "setup: a C++ compiler is missing; install g++ (Debian: apt-get install g++)" >&2; exit 1; }
	@$(PYTHON) scripts/setup.py all

# The development profile is optimised too, so that one build serves recipes and tests.
build: setup
	$(CARGO) build --locked

reproduce: build
	./target/debug/atp-pipeline run $(RECIPE) $(RUN_ARGS)
	@echo "report: runs/$(notdir $(basename $(RECIPE)))/latest/report/report.html"

test: setup
	$(CARGO) test --locked

# The long version of the kill tests: 200 kills spread over all writes and 200 at random moments, with a tiny model, and
# 24 at random moments with the real one.
test-kill: setup
	ATP_KILLS=200 ATP_MODEL_KILLS=24 $(CARGO) test --locked --test integration kill -- --nocapture

test-ranks: setup
	ATP_RANK_KILLS=20 $(CARGO) test --locked --test integration ranks:: -- --nocapture --test-threads 1

test-slurm: setup
	$(CARGO) test --locked --test integration slurm:: -- --ignored --nocapture

test-gpu: setup
	@# Opened late from a test's thread, libtorch's CUDA library finds no GPU; so it is there from the start.
	LIBRARIES=$$($(PYTHON) -c "import importlib.util as u, os; print(os.path.dirname(u.find_spec('torch').origin))")/lib; \
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="env LD_LIBRARY_PATH=$$LIBRARIES LD_PRELOAD=$$LIBRARIES/libtorch_cuda.so" \
	$(CARGO) test --locked --test integration gpu:: -- --ignored --nocapture --test-threads 1

# The long version of the coverage tests: how often each kind of interval holds a known truth.
test-coverage: setup
	ATP_COVERAGE_WORLDS=20000 $(CARGO) test --locked --lib tipping::coverage -- --nocapture

# Pages are written by an ignored test, then tried by Playwright in the system's Chromium; not part of `check`.
test-browser: setup
	@command -v npm >/dev/null || { echo "test-browser: npm is missing; install Node.js 20 or newer" >&2; exit 1; }
	@test -x "$${CHROMIUM:-/usr/bin/chromium}" || { echo "test-browser: no Chromium at $${CHROMIUM:-/usr/bin/chromium}; install it (Debian: apt-get install chromium) or set CHROMIUM" >&2; exit 1; }
	$(CARGO) test --locked --lib report::html::tests::preview -- --ignored
	cd tests/browser && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --no-audit --no-fund && npx playwright test

# ATP_PYTHON names a Python that has tests/ecosystem/requirements.txt already, ATP_ECOSYSTEM_RUN a finished run.
test-ecosystem: build
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "test-ecosystem: Python 3.10 or newer is needed; name one by PYTHON" >&2; exit 1; }
	@test -n "$$ATP_PYTHON" || test -x target/ecosystem/bin/pytest || { $(PYTHON) -m venv target/ecosystem && target/ecosystem/bin/pip install --quiet -r tests/ecosystem/requirements.txt; }
	cd tests/ecosystem && "$${ATP_PYTHON:-../../target/ecosystem/bin/python}" -m pytest -v -rP -p no:cacheprovider .

check: fmt clippy doc test

fmt:
	$(CARGO) fmt --check

clippy: setup
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc: setup
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

RUNS ?= 10000000

fuzz: setup
	@test -n "$(TARGET)" || { echo "fuzz: TARGET=… names one of $$(ls tests/fuzz/targets | sed 's/\.rs//' | tr '\n' ' ')" >&2; exit 1; }
	scripts/fuzz.sh $(TARGET) $(RUNS)

# Advisories need the database of RustSec; without a network, `DENY="bans licenses sources"`.
DENY ?= advisories bans licenses sources

deny:
	@command -v cargo-deny >/dev/null || { echo "deny: cargo-deny is missing; cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny --locked check $(DENY)

sbom:
	@command -v cargo-cyclonedx >/dev/null || { echo "sbom: cargo-cyclonedx is missing; cargo install --locked cargo-cyclonedx" >&2; exit 1; }
	$(CARGO) cyclonedx --format json --spec-version 1.5 --target x86_64-unknown-linux-gnu --override-filename atp-pipeline.cdx
	@mkdir -p target/sbom && mv atp-pipeline.cdx.json target/sbom/ && echo "target/sbom/atp-pipeline.cdx.json"

dist: setup
	$(CARGO) build --locked --release
	scripts/dist.sh

clean:
	$(CARGO) clean
