# Everything happens in a virtual environment of its own, $(VENV); it is made on first
# use and again when pyproject.toml changes. `make demo` alone installs only what it runs,
# everything else completes that. Nothing else on the machine is touched, but by `make apt`.

# Hundreds of processes start in tests: whatever the environment says, none of them compiles
# anew what others have compiled.
export PYTHONDONTWRITEBYTECODE :=

PYTHON ?= python3
PYTEST_ARGS ?=
# Where Python does what the extension does otherwise, for `make test-python`: all modules that they
# share, and some whole tunnels. Everything is `make test-python PYTEST_ARGS=tests`.
DATA_PATH_TESTS := tests/unit/common/test_counts.py tests/unit/wire tests/unit/session tests/unit/flow \
    $(addprefix tests/unit/link/test_,base_link.py picows_link.py) \
    $(addprefix tests/unit/localproxy/test_,inbound.py link_session.py local_connection.py local_end.py local_pump.py outbound.py) \
    tests/unit/service/relay $(addprefix tests/session/test_,local_connections.py survival.py) \
    tests/conformance/test_recorded.py $(addprefix tests/e2e/test_,backpressure.py half_close.py survival.py)
# Files are spread over more processes than there are cores; the tests of a file stay together
# and in order, and those of tests/conformance too.
PYTEST_WORKERS ?= -n auto --dist loadfile
# Another local proxy for `make conformance` to try.
TARGET ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.ready-demo
# What the optional extension is built from, when the package is installed.
EXTENSION := hatch_build.py src/tailrace/_fast.pyx src/tailrace/_core.pyx src/tailrace/_core.pxd
# Sphinx has an environment of its own: it wants another docutils than awscli.
DOCS_VENV := .venv-docs
DOCS_READY := $(DOCS_VENV)/.ready
SPHINX := $(DOCS_VENV)/bin/python -m sphinx -c docs -d build/doctrees --fail-on-warning --keep-going --quiet
# Its progress is for people, standard output for results.
PIP_INSTALL := @$(BIN)/python -m pip --disable-pip-version-check install >&2

# Real servers that some tests talk to; those tests are skipped without them.
TEST_PACKAGES := ansible-core caddy curl fish git haproxy iproute2 libnginx-mod-stream man-db mitmproxy mosquitto netcat-openbsd nginx-light openssh-client openssh-server openssl redis-server rsync squid-openssl tinyproxy-bin zsh
# What the benchmark measures beside tailrace, and measures with.
BENCH_PACKAGES := libnginx-mod-stream nginx-light valgrind

# Of the benchmark: rounds, and scenarios or single cases (make bench SCENARIOS=bulk:up,latency),
# all of them when empty. BENCH_ARGS takes any other option (make bench BENCH_ARGS=--help).
ROUNDS ?= 5
SCENARIOS ?=
BENCH_ARGS ?=

# CPU minutes of `make fuzz`, and targets to keep to (python -m fuzz --list).
FUZZ_MINUTES ?= 10
TARGETS ?=

# CPU minutes of `make fuzz-native`, and its targets.
NATIVE_MINUTES ?= 60
NATIVE_TARGETS ?= framing fastpath relay-gate link-gate
SANITIZE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined

# Interpreters that `make wheels` builds a wheel with the extension for.
WHEEL_PYTHONS ?= $(PYTHON)

# Minutes of `make soak`; SOAK_ARGS takes any other option (make soak SOAK_ARGS=--help).
SOAK_MINUTES ?= 10
SOAK_ARGS ?=

# Dropped links of `make soak-survival`, kills of the service and black holes.
SOAK_CUTS ?= 1000
SOAK_KILLS ?= 100
SOAK_SILENCES ?= 15

# Rounds of `make soak-agent`. This and `make soak-survival` take SOAK_ARGS, too.
SOAK_ROUNDS ?= 100

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-python conformance check audit package wheels zipapp deb release test-version cover docs docs-links docs-recording bench bench-publish bench-must-hold bench-micro bench-instructions fuzz fuzz-native soak soak-survival soak-agent apt apt-bench clean

help:
	@echo "make setup        make the virtual environment $(VENV)"
	@echo "make demo         send files through a tunnel on this machine and measure it"
	@echo "make test         run all tests; PYTEST_ARGS='tests/unit -x' narrows them down"
	@echo "make test-python  run those of the data path again, without the compiled extension"
	@echo "make conformance  run all scenarios over both link back ends; TARGET=PATH adds another proxy"
	@echo "make check        lint, format check, types and audit"
	@echo "make audit        known vulnerabilities of what is installed, where PyPI can be asked"
	@echo "make package      build sdist and wheel into dist, twice, and install each into a bare environment"
	@echo "make wheels       put wheels into dist/: one for each of WHEEL_PYTHONS, and one for any Python"
	@echo "make zipapp       one file of localproxy and the agent for any CPython, into dist"
	@echo "make deb          a Debian package for the Python of this Debian, into dist"
	@echo "make release      cut VERSION=0.2.0: changelog, checks, tests, archives, commit, tag; pushes nothing"
	@echo "make test-version  unit tests with another interpreter, PYTHON=python3.13, in an environment of its own"
	@echo "make cover        run all tests and write htmlcov/index.html"
	@echo "make docs         build the documentation site in build/docs; a warning is an error"
	@echo "make docs-recording      record the terminal that the documentation shows"
	@echo "make docs-links   ask every external link of the documentation for an answer"
	@echo "make bench        measure tailrace beside others; SCENARIOS=bulk,latency ROUNDS=3 narrow it down"
	@echo "make bench-must-hold     the same, but shows only the figures that must hold"
	@echo "make bench-publish       put the latest results into bench/results/latest.* and README.md"
	@echo "make bench-micro         micro benchmarks of the hot paths"
	@echo "make bench-instructions  machine instructions of the hot paths, for noisy machines"
	@echo "make fuzz         made-up inputs for FUZZ_MINUTES=10 of CPU time; TARGETS='codec sigv4' narrows it down"
	@echo "make fuzz-native  the same for NATIVE_MINUTES=60, with the extension built to find faults of memory"
	@echo "make soak         20 tunnels under load and random faults for SOAK_MINUTES=10"
	@echo "make soak-survival  one ssh session and one transfer through SOAK_CUTS=1000 cuts"
	@echo "make soak-agent   the device agent through SOAK_ROUNDS=100 restarts, drops and rotations"
	@echo "make apt          install Debian packages for tests with real servers (as root)"
	@echo "make apt-bench    install Debian packages for the benchmark (as root)"
	@echo "make clean        remove everything made here, the virtual environment too"

setup: $(READY)

# Make the virtual environment, if there is none, after saying what will fill it.
define VIRTUAL_ENVIRONMENT
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is older than 3.11: add PYTHON=python3.11")'
@echo "Setting up $(VENV) with $(1), once ..." >&2
@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
endef

$(READY): pyproject.toml $(EXTENSION)
	$(call VIRTUAL_ENVIRONMENT,all that tests and checks use: about 470 MB)
	$(PIP_INSTALL) --upgrade 'pip>=25.1'
	$(PIP_INSTALL) --editable '.[service,socks,operator]' --group dev
	@touch $@

$(DEMO_READY): pyproject.toml $(EXTENSION)
	$(call VIRTUAL_ENVIRONMENT,what the demonstration runs: about 70 MB)
	$(PIP_INSTALL) --editable '.[service]'
	@touch $@

demo: $(if $(wildcard $(READY)),$(READY),$(DEMO_READY))
	@$(BIN)/tailrace demo

# The gate is silent when all is well, so that pytest's summary stays the last line.
# Parts of the tests are held to nothing: then PYTEST_ARGS is not empty.
test: $(READY)
	@mkdir -p build
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest $(PYTEST_WORKERS) --cov --cov-report= $(PYTEST_ARGS)
ifeq ($(strip $(PYTEST_ARGS)),)
	@$(BIN)/coverage json --quiet -o build/coverage.json
	@$(BIN)/python tests/coverage_gate.py build/coverage.json
endif

# What the extension does, Python does without it: the tests that have bytes go through.
test-python: $(READY)
	@TAILRACE_FAST=0 $(BIN)/python -m pytest $(PYTEST_WORKERS) $(or $(PYTEST_ARGS),$(DATA_PATH_TESTS))

conformance: $(READY)
	@mkdir -p build
	@$(BIN)/python -m pytest -q tests/conformance --link all $(if $(TARGET),--target '$(TARGET)') --record build/conformance.json $(PYTEST_ARGS)

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict src bench fuzz soak release examples docs
	@$(BIN)/python tests/audit_gate.py

audit: $(READY)
	@$(BIN)/python tests/audit_gate.py

# Both archives, which have to be the same bytes when they are built again.
package: $(READY)
	@$(BIN)/python -m release.archives --install

# With another interpreter, and without the gates: they hold for the usual one.
test-version: OTHER = build/venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
test-version:
	@$(OTHER)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(OTHER)
	@$(OTHER)/bin/python -m pip --disable-pip-version-check --quiet install --upgrade 'pip>=25.1'
	@$(OTHER)/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[service,socks,operator]' --group dev
	@$(OTHER)/bin/python -m pytest $(PYTEST_WORKERS) $(or $(PYTEST_ARGS),tests/unit)

zipapp: $(READY)
	@$(BIN)/python -m release.single_file

deb: $(READY)
	@$(BIN)/python -m release.debian_package

release: $(READY)
	@$(BIN)/python -m release.cut $(VERSION) $(RELEASE_ARGS)

cover: $(READY)
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest $(PYTEST_WORKERS) --cov --cov-report=html --cov-report=term $(PYTEST_ARGS)

$(DOCS_READY): pyproject.toml
	@echo "Setting up $(DOCS_VENV) with what builds the documentation: about 130 MB, once ..." >&2
	@$(DOCS_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip --disable-pip-version-check install >&2 --upgrade 'pip>=25.1'
	@$(DOCS_VENV)/bin/python -m pip --disable-pip-version-check install >&2 --editable '.[service,socks,operator]' --group docs
	@touch $@

# Once its environment is there, it takes no network: only docs-links looks at other sites.
docs: $(DOCS_READY)
	@$(SPHINX) -b html . build/docs
	@echo "build/docs/index.html"

docs-links: $(DOCS_READY)
	@$(SPHINX) -b linkcheck . build/docs-links

# The recording of a terminal, made anew.
docs-recording: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m docs.record

bench: $(READY)
	@$(BIN)/python -m bench --rounds $(ROUNDS) $(if $(SCENARIOS),--only '$(SCENARIOS)') $(BENCH_ARGS)

# The latest run, for the repository: bench/results/latest.* and the table in README.md.
bench-publish: $(READY)
	@$(BIN)/python -m bench --publish README.md --render $$(ls bench/results/2*.json | tail -n 1)

bench-must-hold: $(READY)
	@$(BIN)/python -m bench --rounds $(ROUNDS) --must-hold $(BENCH_ARGS)

bench-micro: $(READY)
	@$(BIN)/python -m pytest -c bench/micro/pytest.ini bench/micro $(PYTEST_ARGS)

bench-instructions: $(READY)
	@$(BIN)/python -m bench.instructions $(BENCH_ARGS)

# The strategies and vectors of the tests are used here, too.
fuzz: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(FUZZ_MINUTES) $(TARGETS)

# The extension is built once more, into a place of its own, with compiler checks that Python's own
# memory takes part in.
fuzz-native: $(READY)
	@rm -rf build/native && mkdir -p build/native
	@TAILRACE_FAST=1 TAILRACE_FAST_FLAGS='$(SANITIZE)' $(BIN)/python -m pip \
	    --disable-pip-version-check install --quiet --no-deps --no-cache-dir --target build/native .
	@LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=build/native:tests \
	    $(BIN)/python -m fuzz --minutes $(NATIVE_MINUTES) $(NATIVE_TARGETS)

# pip takes the one for its interpreter, and where there is none, the one without the extension.
wheels: $(READY)
	@rm -rf build/wheels && mkdir -p build/wheels dist
	$(PIP_INSTALL) --group wheels
	@for python in $(WHEEL_PYTHONS); do \
	    TAILRACE_FAST=1 $(BIN)/python -m pip --disable-pip-version-check --python "$$(command -v $$python)" wheel --quiet \
	        --no-deps --wheel-dir build/wheels . || exit 1; \
	done
	@for wheel in build/wheels/*-linux_*.whl; do \
	    PATH="$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist $$wheel >&2 || exit 1; \
	done
	@find build/wheels -name '*.whl' ! -name '*-linux_*' -exec cp {} dist \;
	@TAILRACE_FAST=0 $(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps \
	    --wheel-dir dist .
	@ls dist/*.whl

soak: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m soak --minutes $(SOAK_MINUTES) $(SOAK_ARGS)

soak-survival: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m soak.survival --cuts $(SOAK_CUTS) --kills $(SOAK_KILLS) --silences $(SOAK_SILENCES) $(SOAK_ARGS)

soak-agent: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m soak.agent --rounds $(SOAK_ROUNDS) $(SOAK_ARGS)

apt: PACKAGES := $(TEST_PACKAGES)
apt-bench: PACKAGES := $(BENCH_PACKAGES)
apt apt-bench:
	@missing=$$(for name in $(PACKAGES); do \
	    dpkg-query --show --showformat='$${db:Status-Status}\n' $$name 2>/dev/null \
	        | grep -qx installed || echo $$name; \
	done); \
	if [ -n "$$missing" ]; then \
	    export DEBIAN_FRONTEND=noninteractive; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

clean:
	rm -rf $(VENV) $(DOCS_VENV) build dist htmlcov .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
