# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

UPLOT := 1.6.32

.PHONY: demo test lint docs bench clean install uplot

demo: install
	$(BIN)/advise demo
	@echo "Open demo/jpeg_cnn.html in a browser."

test: lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/advise rules docs docs/knowledge
	$(BIN)/python -m stepscope.advisor.export.tables > docs/tables.md

# The chart library that the report carries: its release, unchanged. tests/advisor/test_html.py
# knows version and hash.
uplot:
	mkdir -p build/uplot && cd build/uplot && npm pack --silent uplot@$(UPLOT) && tar -xzf *.tgz
	cp build/uplot/package/dist/uPlot.iife.min.js templates/uplot.min.js
	cp build/uplot/package/dist/uPlot.min.css templates/uplot.min.css
	cp build/uplot/package/LICENSE templates/uplot.LICENSE.txt
	rm -r build/uplot

bench: install
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/advise_speed.py
	$(BIN)/python bench/report_speed.py

# The strict editable install links every file, so it is renewed each time: a new file counts.
install: .venv/ready
	@$(BIN)/pip install -q --no-deps --no-build-isolation -C editable_mode=strict -e .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt pip setuptools wheel
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -C editable_mode=strict -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist demo *.egg-info
