# cnncore. `make demo` builds the kernels, checks every gradient and trains on real digits; `make test` runs the tests.
# Everything is installed into .venv, which this file makes itself.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml setup.py $(wildcard csrc/*)
ASAN := build/asan
export MPLBACKEND = Agg

.PHONY: demo test test-slow build bench asan docs lint clean
.DELETE_ON_ERROR:

demo: .venv/demo
	$(BIN)/cnncore demo

test: .venv/test
	$(BIN)/pytest -m "not slow"

test-slow: .venv/test
	$(BIN)/pytest -m slow

# Every C kernel under AddressSanitizer and UBSan, in a copy of the tree.
asan: .venv/test
	rm -rf $(ASAN) && mkdir -p $(ASAN) && cp -r cnncore csrc tests setup.py pyproject.toml README.md $(ASAN)
	rm -f $(ASAN)/cnncore/*.so
	cd $(ASAN) && CNNCORE_CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -g -O1" \
		$(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd $(ASAN) && LD_PRELOAD="$$($${CC:-cc} -print-file-name=libasan.so) $$($${CC:-cc} -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONPATH=. \
		$(CURDIR)/$(BIN)/python -m pytest tests/test_backends.py tests/test_bad_input.py

build: .venv/demo
	$(BIN)/pip install -q -e .

bench: .venv/demo
	$(BIN)/cnncore bench

# docs/ops, from the docstrings.
docs: .venv/demo
	$(BIN)/python docs/make_ops.py

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy cnncore

clean:
	rm -rf .venv build runs *.egg-info cnncore/*.so csrc/_native_*.c
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip setuptools

.venv/demo: .venv/bin/python $(SOURCES)
	$(BIN)/pip install -q -e '.[train,plot]'
	touch $@

.venv/test: .venv/bin/python $(SOURCES)
	$(BIN)/pip install -q -e '.[train,plot,cuda,test,lint]'
	touch $@ .venv/demo
