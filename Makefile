PYTHON ?= python3
BIN = .venv/bin

.PHONY: env book test test-long lint bench bench-full explore lab picture reference repeat chapter lock clean

env: .venv/installed

# Only a finished installation leaves this file behind.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "styleinv needs Python 3.11, 3.12 or 3.13; say which with: make env PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

book: env
	$(BIN)/styleinv book

# Two processes with one thread each are faster than one with two: most tests are small.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder

# What every change needs, in minutes.
test: env lint
	$(PYTEST)

# What takes longer: fuzzing, kills, the cluster, every page in the browser.
test-long: env
	STYLEINV_FUZZ=2500 $(PYTEST) tests/long tests/test_fuzz.py

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Minutes: the methods side by side, then their peers at 64 px, then the engine in Chromium. plenoptic races if it is installed.
bench: env
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/peers.py --minutes 6 --sizes 64 --rounds 1 --record _build/peers.json
	$(BIN)/python benchmarks/browser.py --rounds 1 --record _build/browser.json

# Hours, in the background; started again, it goes on where it was. Other weights or images:
# make bench-full BENCH="--encoder FILE --styles A B C"
bench-full: env
	@mkdir -p _build
	nohup sh -c '$(BIN)/python benchmarks/peers.py && $(BIN)/python benchmarks/sizes.py && $(BIN)/python benchmarks/full.py $(BENCH)' >>_build/bench-full.log 2>&1 &
	@echo "The records are being made: tail -f _build/bench-full.log"

# The live page, in the browser on this machine.
explore: env
	$(BIN)/styleinv explore

# A copy of the notebooks, live in JupyterLab on this machine.
lab: env $(patsubst notebooks/%.md,_explore/%.ipynb,$(wildcard notebooks/*.md))
	$(BIN)/jupyter lab --LabApp.extension_manager=readonly _explore/experiments.ipynb

_explore/%.ipynb: notebooks/%.md
	mkdir -p _explore
	$(BIN)/jupytext --to ipynb --output $@ $<

# Whose weights the reference runs are; a file of them does as well.
ENCODER ?= vgg19-normalised

# The reference runs that are missing, and what the claims are by then.
reference: env
	$(BIN)/styleinv sweep --reference results/reference.yml --encoder "$(ENCODER)"
	$(BIN)/styleinv claims >results/claims.txt

# All reference runs again, in another folder, and the chapter's claims by those. It goes on where it was stopped.
# Some of them: make repeat ONLY="bundled-64 random-64" CLAIMS=C1
repeat: env
	@mkdir -p _build/repeat
	cp results/reference.yml _build/repeat
	$(BIN)/styleinv sweep --reference _build/repeat/reference.yml --encoder "$(ENCODER)" $(ONLY:%=--only %)
	$(BIN)/styleinv claims $(CLAIMS) --results _build/repeat

# The chapter's own Adam, in the background.
chapter: env
	@mkdir -p _build
	OMP_WAIT_POLICY=PASSIVE nohup nice -n 19 $(BIN)/styleinv sweep --reference results/chapter.yml --encoder "$(ENCODER)" --threads 1 >>_build/chapter.log 2>&1 &
	@echo "It goes on where it was stopped; see: tail -f _build/chapter.log"

picture: env
	$(BIN)/python -m styleinv_book.picture

# Needs uv (https://docs.astral.sh/uv/). The peers of `make bench` are in no reader's environment.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --extra book --extra cluster --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf _build _explore .pytest_cache .mypy_cache .ruff_cache .hypothesis
