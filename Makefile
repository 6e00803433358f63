# Every goal sets up what it needs, on a machine that has only Python 3.11 or newer (with venv) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready

.PHONY: help venv browser test test-slow lint demo docs dist clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       train, evaluate and try a captioner on generated clips; writes outputs/demo/"
	@echo "make test       the tests"
	@echo "make test-slow  the longer proofs"
	@echo "make lint       ruff and mypy"
	@echo "make browser    what the test of report.html needs, where it can be installed; make test does this first"
	@echo "make docs       the API reference, from the docstrings; writes outputs/api/"
	@echo "make dist       wheel and source archive; writes dist/"
	@echo "make venv       set up $(VENV) with all extras, which all of these do first; make demo sets up what it needs alone"
	@echo "                (PYTHON=python3.12 chooses the interpreter)"
	@echo "make clean      remove build files and caches, but neither $(VENV) nor outputs/"

# pip says nothing for minutes, so that somebody has to.
comma := ,
define install
	@echo "installing $(1) into $(VENV)"
	@(while sleep 10 >/dev/null 2>&1; do echo "still installing"; done) & ticker=$$!; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '$(1)'; status=$$?; \
	kill $$ticker; exit $$status
endef

venv: $(READY)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(READY): setup.cfg pyproject.toml | $(BIN)/python
	$(call install,.[train$(comma)evaluate$(comma)lite$(comma)lora$(comma)meteor$(comma)onnx$(comma)openvino$(comma)dev])
	touch $@ $(DEMO_READY)

$(DEMO_READY): setup.cfg pyproject.toml | $(BIN)/python
	$(call install,.[train])
	touch $@

# Without it the test in a browser is skipped, and says so; nothing else needs one.
browser:
	@if command -v chromedriver >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
	  chromium chromium-driver; } >/dev/null || echo "chromium could not be installed: the test in a browser is skipped"; \
	else echo "no chromedriver: the test in a browser is skipped"; fi

# One thread a process: small models on few cores lose far more to waiting threads than they gain. A process for each core, up to
# eight; the tests of a file share their models, and so a process.
test: $(READY) browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

demo: $(DEMO_READY)
	$(BIN)/vidcap demo-data outputs/demo-data
	$(BIN)/python train_hf.py recipes/demo.yaml
	cd outputs/demo-data/test && ../../../$(BIN)/vidcap caption 00000.mp4 00001.mp4 00002.mp4 00003.gif --model ../../demo

docs: $(READY)
	$(BIN)/pdoc --docformat google --output-directory outputs/api hub_card hub_card.upload modeling_vidcap processing vidcap vidcap.evaluation

dist: $(READY)
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
