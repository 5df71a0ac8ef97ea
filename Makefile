# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs bench clean install

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

bench: install
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/advise_speed.py

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
