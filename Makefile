PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODELS := examples/models

.DEFAULT_GOAL := help
.PHONY: help install demo test serve models ladders lint format check-slow bench bench-swap bench-density \
	bench-breakdown bench-overload bench-predicted bench-shapes bench-planner bench-policies bench-replay bench-resnet bench-search \
	bench-beside conformance protos lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(STAMP) ## make the virtual environment with everything pinned in constraints.txt
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

models: $(STAMP) ## build and profile the example models (cached)
	$(BIN)/trimtab build $(MODELS)
	$(BIN)/trimtab profile $(MODELS)

ladders: models ## every technique on three example models: half an hour of training, ladder.png, out/ladders.html
	$(BIN)/trimtab build $(MODELS)/digits-cnn --all
	$(BIN)/trimtab build $(MODELS)/digits-vit --all
	$(BIN)/trimtab build $(MODELS)/minilm --all
	$(BIN)/trimtab profile $(MODELS)
	$(BIN)/trimtab ladder $(MODELS)
	mkdir -p out && $(BIN)/trimtab report $(MODELS) --output out/ladders.html

demo: $(STAMP) ## build the example models, serve them, put them under pressure, write out/demo
	$(BIN)/python -m examples.demo

test: $(STAMP) ## run the test suite
	$(BIN)/python -m pytest -m "not slow"

check-slow: $(STAMP) ## tests that take minutes
	$(BIN)/python -m pytest -m slow

serve: models ## serve the example models with the demo's budgets until Ctrl-C
	$(BIN)/trimtab serve --config examples/demo/trimtab.yaml

lint: $(STAMP) ## ruff, mypy, import-linter, bandit; pip-audit where its service can be reached
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml server deployments budgets variants
	@if $(BIN)/python -c 'import json, urllib.request as u; json.load(u.urlopen("https://pypi.org/pypi/pip/24.0/json", timeout=5))["vulnerabilities"]' 2>/dev/null; \
	then $(BIN)/pip-audit --no-deps --disable-pip --requirement constraints.txt; \
	else echo 'pip-audit: not run, its vulnerability service (pypi.org) cannot be reached from here'; fi

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: models ## trimtab beside its peers, each installed apart: the README's table, out/bench (needs wrk, nghttp2-client)
	$(BIN)/python -m benchmarks $(BENCH)

bench-swap: models ## what clients see of ten swaps under load
	$(BIN)/python -m benchmarks.swap

bench-density: models ## models per GiB, beside Ray Serve with a deployment for each
	$(BIN)/python -m benchmarks.density

bench-breakdown: $(STAMP) ## where the time of a tiny request goes
	$(BIN)/python -m benchmarks.host_overhead --uvloop
	$(BIN)/python -m benchmarks.served

bench-predicted: models ## what the controller predicts of swaps against what is then measured
	$(BIN)/python -m benchmarks.predicted

bench-shapes: models ## what an engine keeps in memory for the shapes that it has run
	$(BIN)/python -m benchmarks.shapes

bench-resnet: $(STAMP) ## what int8 costs and saves on ResNet-50
	$(BIN)/python -m benchmarks.resnet50

bench-beside: models ## MiniLM's int8 beside its fp32, calls alternating
	$(BIN)/python -m benchmarks.beside

bench-search: models ## ten minutes of search beside the ladder made by hand, rung by rung
	$(BIN)/python -m benchmarks.search

conformance: $(STAMP) ## trimtab beside a real Triton, and under the clients of KServe and MLServer (installed apart)
	$(BIN)/python tests/conformance/run.py

bench-overload: $(STAMP) ## goodput and refusals at up to five times what the server sustains
	$(BIN)/python -m benchmarks.overload

bench-planner: $(STAMP) ## how long the joint program takes on fleets of 200 and 1,000 models
	$(BIN)/python -m benchmarks.planner

bench-policies: $(STAMP) ## every policy in every scenario, in one table
	$(BIN)/python -m benchmarks.policies

bench-replay: $(STAMP) ## ten million requests through the simulator
	$(BIN)/python -m benchmarks.replay_speed

protos: $(STAMP) ## generate the committed stubs from protos/open_inference.proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --pyi_out=. protos/open_inference.proto

# torch's build without CUDA: a page or a folder of its wheels.
TORCH_CPU ?= $(or $(PIP_FIND_LINKS),https://download.pytorch.org/whl/cpu/torch/)
LOCK = $(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --only-binary :all: --custom-compile-command 'make lock'
IMAGE = pyproject.toml locks/image.in --extra object-storage --constraint constraints.txt

lock: $(STAMP) ## pin what the image installs, with hashes, in locks/
	$(LOCK) locks/build.in --output-file locks/build.lock
	$(LOCK) $(IMAGE) --find-links $(TORCH_CPU) --output-file locks/cpu.lock
	$(LOCK) $(IMAGE) --output-file locks/gpu.lock

clean: ## remove what was built (not the virtual environment)
	rm -rf out $(MODELS)/*/variants $(MODELS)/*/modules $(MODELS)/*/ladder.png $(MODELS)/*/canary.npz $(MODELS)/*/weights.safetensors
