# make demo: a picture from a real voice    make live: from the microphone    make test: all tests
# make lint: style and types    make bench: the README's figures    make train: the built-in model anew
PYTHON ?= python3
PROMPT ?= a red flower, green background
VOICE ?= examples/voice_en.wav
STEPS ?= 20
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
SOUND_TESTS := libportaudio2 libasound2-plugins pulseaudio pulseaudio-utils

# the recipes take these from the environment, so that no quote or dollar in them means anything to the shell
export PROMPT VOICE STEPS VOICES BENCH_QUICK

.PHONY: demo live test lint coverage bench train clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.ready
	@$(PY) run_live_workflow.py --prompt "$$PROMPT" --steps "$$STEPS" --input_file "$$VOICE"

live: $(VENV)/.ready
	@$(PY) -c "import sounddevice" 2>/dev/null || tools/need "the microphone" libportaudio2
	@$(PY) run_live_workflow.py --prompt "$$PROMPT" --steps "$$STEPS"

test: $(VENV)/.ready-dev
	@[ "$$(uname)" != Linux ] || tools/need "testing the microphone" $(SOUND_TESTS) || true
	@[ "$$(uname)" != Linux ] || tools/need "testing m4a, wma and video" ffmpeg || true
	@$(PY) -m pytest

lint: $(VENV)/.ready-dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

# which lines no test runs
coverage: $(VENV)/.ready-dev
	@$(PY) -m pytest --cov --cov-report=term-missing:skip-covered

# the figures of the README, into benchmarks/results.md: make bench VOICES=FOLDER (see benchmarks/report.py)
bench: $(VENV)/.ready-dev
	@$(PY) benchmarks/report.py $${VOICES:+--voices "$$VOICES"} $${BENCH_QUICK:+--quick}

# hours on a CPU; every step resumes where it was stopped
train: $(VENV)/.ready-dev
	@$(PY) -m training words
	@$(PY) -m training first_stage
	@$(PY) -m training prior
	@$(PY) -m training diffusion
	@$(PY) -m training export

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON): install Python 3.10 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed, this is $$($(PYTHON) --version): make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tools/need "a virtual environment" python3-venv
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: requirements.txt | $(VENV)/bin/python
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing what requirements.txt lists into $(VENV) (once)"
	@$(PIP) -r requirements.txt
	@$(PY) -c "import cv2" 2>/dev/null || tools/need "OpenCV" libgl1 libglib2.0-0
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt requirements-dask.txt $(VENV)/.ready
	@echo "installing what requirements-dev.txt lists into $(VENV) (once)"
	@$(PIP) -r requirements-dev.txt
	@touch $@
