# cnncore. `make demo` builds the kernels, checks every gradient and trains on real digits; `make test` runs the tests.
# Everything is installed into .venv, which this file makes itself.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml setup.py $(wildcard csrc/*.c csrc/*.h csrc/*.py)
PIP := $(BIN)/python -m pip install -q --no-build-isolation
# What pyproject.toml asks for, and for these extras.
REQUIRED = $(BIN)/python -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*p["dependencies"], *sum((p["optional-dependencies"][name] for name in sys.argv[1:]), []))'
comma := ,
SANITIZED = LD_PRELOAD="$$($${CC:-cc} -print-file-name=libasan.so) $$($${CC:-cc} -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export MPLBACKEND = Agg
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# One installation at a time, with -j too: they share .venv. Compilers run on all cores anyway.
.NOTPARALLEL:
.PHONY: demo test test-slow build builds bench asan docs lint clean
.DELETE_ON_ERROR:

demo: .venv/demo
	$(BIN)/cnncore demo

test: .venv/test
	$(BIN)/pytest -m "not slow"

test-slow: .venv/test
	$(BIN)/pytest -m slow

# The kernel tests on kernels built with other flags, in a copy of the tree: $(call in_copy,NAME,FLAGS,ENVIRONMENT)
define in_copy
	rm -rf build/$(1) && mkdir -p build/$(1) && cp -r cnncore csrc tests setup.py pyproject.toml README.md build/$(1)
	rm -f build/$(1)/cnncore/*.so
	cd build/$(1) && CNNCORE_CFLAGS="$(2)" "$(CURDIR)/$(BIN)/python" setup.py -q build_ext --inplace
	cd build/$(1) && $(3) PYTHONPATH=. "$(CURDIR)/$(BIN)/python" -m pytest -k "not cuda" \
		tests/test_backends.py tests/test_memory_formats.py tests/test_winograd.py tests/test_bad_input.py \
		tests/test_bad_geometry.py tests/test_fuzz.py
endef

# AddressSanitizer and UBSan.
asan: .venv/test
	$(call in_copy,asan,-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -g1 -O1,$(SANITIZED))

# Vectors of 64 bytes on any machine: what AVX-512 will compute, without AVX-512.
wide: .venv/test
	$(call in_copy,wide,-DCC_VECTOR_BYTES=64,)

# The kernels of every instruction set. (.venv/demo has those of this processor alone.)
build: .venv/bin/python
	$(PIP) -e '.[train,plot]'
	touch .venv/demo

# Builds in every way that people use; writes the table of docs/building.md. ONLY="clang musl" tries these alone.
builds:
	$(PYTHON) bench/builds.py $(ONLY)

# cnncore and PyTorch side by side, about 15 minutes; writes bench/results. (`cnncore bench`: cnncore alone, in seconds.)
bench: .venv/bench
	$(BIN)/python bench/compare.py

# docs/ops, from the docstrings.
docs: .venv/demo
	$(BIN)/python docs/make_ops.py

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy cnncore
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist runs *.egg-info cnncore/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$@ -m pip install -q 'setuptools>=77' 'cffi>=1.17'

# What runs here, and nothing that could wait: Python compiles modules when they are imported. Packages are fetched while
# the compiler works.
.venv/demo: .venv/bin/python $(SOURCES)
	$(PIP) --no-compile $$($(REQUIRED) train plot) & \
	CNNCORE_SETS=$${CNNCORE_SETS:-native} $(PIP) --no-compile --no-deps -e . && wait $$!
	touch $@

.venv/bench: .venv/bin/python $(SOURCES)
	$(PIP) -e '.[train,plot,bench]'
	touch $@ .venv/demo

.venv/test: .venv/bin/python $(SOURCES)
	$(PIP) -e '.[train,plot,data,cuda,test,lint]'
	touch $@ .venv/demo
