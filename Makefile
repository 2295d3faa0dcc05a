# SPDX-License-Identifier: MIT
# A thin front: CMake builds, ./setup installs, tests/run tests.

FUZZ_SECONDS ?= 60
PRESET ?= release
# tests/run and examples/demo run ./setup themselves, but are written in Python, which a small Debian lacks.
PYTHON_IS_THERE := command -v python3 >/dev/null || ./setup
TOOLS := PATH="$(CURDIR)/build/bin:$(CURDIR)/build/venv/bin:$$PATH"

.DEFAULT_GOAL := build
.PHONY: build configure examples setup demo test lint format bench asan tsan coverage fuzz amalgamation abi-record install clean help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

build: configure ## the library, the C examples and the tests (PRESET=release)
	@cmake --build --preset $(PRESET)

configure:
	@cmake --preset $(PRESET) >/dev/null || { echo "make: cmake could not configure; ./setup installs what is needed" >&2; exit 1; }

examples: configure ## the example filesystems in C and Go (Python's need no building)
	@cmake --build --preset $(PRESET) --target examples
	@for dir in examples/go/*/; do name=$$(basename "$$dir"); \
		$(TOOLS) go build -buildvcs=false -o "build/examples/go-$$name" "./$$dir" || exit 1; done

setup: ## install what is missing
	@./setup

demo: ## serve a real source tree from an archive in C, Python and Go, and compare
	@$(PYTHON_IS_THERE)
	@examples/demo

test: ## everything that is checked, ending with a count per suite
	@$(PYTHON_IS_THERE)
	@tests/run

lint: ## formatters, linters, type checkers, the ABI
	@$(PYTHON_IS_THERE)
	@tests/run setup lint abi

format: ## let the formatters rewrite what they can
	@git ls-files -co --exclude-standard '*.c' '*.h' '*.cpp' | grep -v '^bindings/go/internal/raw/' | xargs clang-format -i
	@$(TOOLS) ruff format $$(git ls-files -co --exclude-standard '*.py') tests/run examples/demo
	@$(TOOLS) ruff check --fix $$(git ls-files -co --exclude-standard '*.py') tests/run examples/demo

bench: ## requests per second beside other libraries
	@./setup
	@$(MAKE) --no-print-directory examples
	@bench/run

asan: ## unit and mount tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@tests/run asan-unit asan-mount fuzz-replay

tsan: ## unit and mount tests under ThreadSanitizer
	@tests/run tsan-unit tsan-mount

coverage: ## which lines the unit and mount tests run
	@cmake --preset coverage >/dev/null && cmake --build --preset coverage
	@ctest --preset coverage
	@cd build/coverage && gcov -n $$(find . -name '*.gcda' -path '*mf_core*') 2>/dev/null \
		| sed -n "/^File '.*core\/.*\.c'/{N;s/File '\(.*\)'\nLines executed:/\1 /p;}" | sort

fuzz: ## run each fuzz target for FUZZ_SECONDS
	@./setup
	@tools/fuzz $(FUZZ_SECONDS)

amalgamation: ## write the Go binding's copy of the engine
	@python3 tools/amalgamate.py

abi-record: build ## take the library's interface as it is for the baseline
	@abi/check.sh --record

install: build ## install the C library (DESTDIR is honoured)
	@cmake --install build/$(PRESET)

clean: ## remove what was built; the tools stay
	@find build -mindepth 1 -maxdepth 1 ! -name venv ! -name bin ! -name 'bench-venv' ! -name '.packages' -exec rm -rf {} +
	@rm -f build/venv/.project
