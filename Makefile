# make demo: an image from a recorded voice      make live: from the microphone
# make film: a film of a recording              VOICE=song.mp3 PROMPT="..." WINDOWS=3
# make stage: web pages, on which visitors speak
# make test: all tests                           make test-quick: the quick ones
# make lint: style and types                     make coverage: the lines that no test runs
# make bench: the README's figures               make train: the built-in model anew
# make diffusers: what models of the library diffusers need
PYTHON ?= python3
PROMPT ?= a red flower, green background
VOICE ?= examples/voice_en.wav
# sampling steps; empty: as many as the model takes by default
STEPS ?=
# seconds of each window of a film: of longer ones the recording in VOICE would have only one, and stand still
WINDOWS ?= 1.5
# processes that run tests: one more than there are cores, because some tests wait; each takes about 1 GB of memory
JOBS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$cores -lt 8 ] || cores=8; echo $$((cores + 1)))
VENV := .venv
FILMS := $${VOICETOIMG_DATA_DIR:-.}/outputs/txt2img-samples/films
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest -n $(JOBS) --dist loadfile
SOUND_TESTS := libportaudio2 libasound2-plugins pulseaudio pulseaudio-utils

# the recipes take these from the environment, so that no quote or dollar in them means anything to the shell
export PYTHON PROMPT VOICE STEPS WINDOWS VOICES BENCH_QUICK

.PHONY: demo live film stage diffusers test test-quick plan quick-plan test-programs lint coverage bench train clean
.DEFAULT_GOAL := demo
.NOTPARALLEL:

demo: $(VENV)/.ready
	@$(PY) run_live_workflow.py --prompt "$$PROMPT" $${STEPS:+--steps "$$STEPS"} --input_file "$$VOICE"
	@tools/look

live: $(VENV)/.ready
	@$(PY) -c "import sounddevice" 2>/dev/null || tools/need "the microphone" libportaudio2
	@$(PY) run_live_workflow.py --prompt "$$PROMPT" $${STEPS:+--steps "$$STEPS"}

# the latents along the recording go beside the films
film: $(VENV)/.ready
	@mkdir -p "$(FILMS)"
	@$(PY) process_live_audio.py --input_file "$$VOICE" --windows "$$WINDOWS" --output_file "$(FILMS)/voice.pt"
	@$(PY) txt2img.py --init_latents "$(FILMS)/voice.pt" --film "$$VOICE" --prompt "$$PROMPT" $${STEPS:+--steps "$$STEPS"}

diffusers: $(VENV)/.ready-diffusers

stage: $(VENV)/.ready $(VENV)/.ready-stage
	@$(PY) run_live_workflow.py --stage --prompt "$$PROMPT" $${STEPS:+--steps "$$STEPS"}

test: plan $(VENV)/.ready-dev test-programs
	@$(PYTEST)

test-quick: quick-plan $(VENV)/.ready-dev test-programs
	@$(PYTEST) -m "not slow"

plan:
	@echo "all tests, $(JOBS) at a time: 5 minutes on two cores (make test-quick: 2 minutes)"

quick-plan:
	@echo "the quick tests, $(JOBS) at a time: 2 minutes on two cores (make test: all of them, 5 minutes)"

test-programs:
	@[ "$$(uname)" != Linux ] || tools/need "testing the microphone" $(SOUND_TESTS) || true
	@[ "$$(uname)" != Linux ] || tools/need "testing web pages" chromium || true
	@[ "$$(uname)" != Linux ] || tools/need "testing m4a, wma and video" ffmpeg || true

lint: $(VENV)/.ready-dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

coverage: $(VENV)/.ready-dev test-programs
	@$(PYTEST) --cov --cov-report=term-missing:skip-covered

# into benchmarks/results.md: make bench VOICES=FOLDER (see python -m benchmarks.report --help)
bench: $(VENV)/.ready-dev
	@$(PY) -m benchmarks.report $${VOICES:+--voices "$$VOICES"} $${BENCH_QUICK:+--quick}

# most of a day on two cores; every stage resumes where it was stopped
train: $(VENV)/.ready-dev
	@$(PY) -m training words
	@$(PY) -m training first_stage
	@$(PY) -m training prior
	@$(PY) -m training diffusion
	@$(PY) -m training export

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache

$(VENV)/.ready: requirements.txt
	@tools/install requirements.txt

$(VENV)/.ready-diffusers: requirements.txt requirements-diffusers.txt
	@tools/install requirements-diffusers.txt

$(VENV)/.ready-stage: requirements-stage.txt
	@echo "installing what requirements-stage.txt lists into .venv: 6 MB"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-stage.txt
	@touch $@

$(VENV)/.ready-dev: requirements.txt requirements-dev.txt requirements-dask.txt requirements-diffusers.txt \
		requirements-stage.txt
	@tools/install requirements-dev.txt
