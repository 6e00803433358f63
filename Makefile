# Every goal sets up what it needs, on a machine that has only Python 3.11 or newer (with venv) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := .venv-oldest
DEMO_READY := $(VENV)/.demo-ready

.PHONY: help venv browser test test-slow test-oldest lint demo docs dist clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       train, evaluate and try a captioner on generated clips; writes outputs/demo/"
	@echo "make test       the tests"
	@echo "make test-slow  the longer proofs"
	@echo "make test-oldest  a core of the tests with the lowest versions of all packages, in $(OLDEST)"
	@echo "make lint       ruff and mypy"
	@echo "make browser    what the test of report.html needs, where it can be installed; make test does this first"
	@echo "make docs       the API reference, from the docstrings; writes outputs/api/"
	@echo "make dist       wheel and source archive; writes dist/"
	@echo "make venv       set up $(VENV) with all extras, which all of these do first; make demo sets up what it needs alone"
	@echo "                (PYTHON=python3.12 chooses the interpreter)"
	@echo "make clean      remove build files and caches, but neither $(VENV) nor $(OLDEST) nor outputs/"

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

# What a model goes through, from clips to training, export and captions, with the versions of tests/oldest.txt.
CORE := tests/hub_card/test_export.py tests/hub_card/test_hub_push.py tests/modeling_vidcap/test_generation.py \
	tests/modeling_vidcap/test_greedy.py tests/modeling_vidcap/test_model.py tests/modeling_vidcap/test_pipeline.py \
	tests/modeling_vidcap/test_pretrained_decoders.py tests/modeling_vidcap/test_recorded_outputs.py \
	tests/processing/clips/test_clip_dataset.py tests/processing/clips/test_streams.py \
	tests/processing/test_processing.py tests/processing/test_video_io.py \
	tests/vidcap/evaluation/scores/test_metrics.py tests/vidcap/inference/test_loading.py \
	tests/vidcap/light/test_light.py tests/vidcap/training/test_resume.py tests/vidcap/training/test_training.py

test-oldest: $(OLDEST)/.ready
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest $(CORE)

$(OLDEST)/.ready: setup.cfg pyproject.toml tests/oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "the lowest versions need Python 3.11: make test-oldest PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(OLDEST)
	@echo "installing the lowest versions into $(OLDEST): several minutes"
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint tests/oldest.txt \
	  --editable '.[train,evaluate,lora,onnx,dev]'
	touch $@

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
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './$(OLDEST)/*' -prune -exec rm -rf {} +
