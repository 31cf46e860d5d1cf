# make demo               the comparison table, on the bundled model and freshly made clips (about four minutes on two cores)
# make bench              the cost and the savings of compression here (about ten minutes on two cores), into
#                         docs/performance.md and benchmarks/results/perf/$(BENCH).json; BENCH defaults to the machine's name
# make bench-peers        kvpress and the released InfiniPot-V against this package, in an environment of its own
#                         (.venv-peers), into docs/performance.md and benchmarks/results/perf/$(BENCH)-peers.json
# make test               ruff, mypy and the test suite without its slow tests, in .venv
# make test-all           the same with the slow tests
# make docs              the documentation as a site, into build/site; a broken link is an error
# make dist              wheel and sdist, checked, into dist
# make test-kvpress       presses of kvpress on video models, in .venv-peers
# make test-transformers  the test suite on other supported transformers, each in an environment of its own;
#                         make test-transformers-5.24.0 on that version
PYTHON ?= python3
CPU_TORCH := torch==2.13.0+cpu
CPU_TORCHVISION := torchvision==0.28.0+cpu
CPU_INDEX := https://download.pytorch.org/whl/cpu
BENCH ?= $(shell hostname -s)

export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1

.PHONY: demo bench bench-peers docs dist test test-all test-kvpress test-transformers clean

demo: .venv/.ready
	rm -rf demo
	.venv/bin/kvpress-video sweep --out demo

bench: .venv/.ready
	.venv/bin/kvpress-video bench --out benchmarks/results/perf/$(BENCH).json
	.venv/bin/python -m kvpress_video.benchmarks.perf.results.page

bench-peers: .venv-peers/.ready
	.venv-peers/bin/kvpress-video bench peers --out benchmarks/results/perf/$(BENCH)-peers.json
	.venv-peers/bin/python -m kvpress_video.benchmarks.perf.results.page

docs: .venv/.ready
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

dist: .venv/.ready
	rm -rf dist
	.venv/bin/python -m build --no-isolation
	.venv/bin/twine check --strict dist/*

test test-all: export OMP_NUM_THREADS := 1
test: SELECTED := -m "not slow"
test test-all: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pytest -n 2 --dist loadfile $(SELECTED)

test-kvpress: .venv-peers/.ready
	OMP_NUM_THREADS=1 .venv-peers/bin/pytest tests/integrations/kvpress_presses.py

test-transformers: test-transformers-5.24.0 test-transformers-5.17.0 test-transformers-4.57.6

test-transformers-%: .venv-%/.ready
	OMP_NUM_THREADS=1 .venv-$*/bin/pytest -n 2 --dist loadfile -m "not slow"

# $(call install,ENVIRONMENT,CONSTRAINTS,PACKAGES): the CPU builds go first, so that they satisfy later requirements. Where
# that of torchvision cannot be reached, PyPI's CUDA build is installed, which the package makes importable.
define install
	$(PYTHON) -m venv $(1)
	$(1)/bin/pip install --quiet --no-compile "$(CPU_TORCH)" || $(1)/bin/pip install --quiet "$(CPU_TORCH)" --index-url $(CPU_INDEX)
	$(1)/bin/pip install --quiet --no-compile --no-deps "$(CPU_TORCHVISION)" \
	  || $(1)/bin/pip install --quiet --no-compile --no-deps "$(CPU_TORCHVISION)" --index-url $(CPU_INDEX) --timeout 15 --retries 1 \
	  || echo "No CPU build of torchvision can be reached: PyPI's is installed instead."
	$(1)/bin/pip install --quiet --no-compile --constraint $(2) "setuptools>=77"
	$(1)/bin/pip install --quiet --no-compile --constraint $(2) --no-build-isolation $(3)
	touch $(1)/.ready
endef

.venv/.ready: constraints.txt pyproject.toml
	$(call install,.venv,constraints.txt,--editable ".[dev]")

.PRECIOUS: .venv-%/.ready
.venv-%/.ready: constraints.txt pyproject.toml
	mkdir -p .venv-$*
	sed -e '/^tokenizers\|^huggingface_hub/d' -e 's/^transformers==.*/transformers==$*/' constraints.txt > .venv-$*/constraints.txt
	$(call install,.venv-$*,.venv-$*/constraints.txt,--editable ".[dev]")

.venv-peers/.ready: constraints.txt pyproject.toml
	mkdir -p .venv-peers
	sed -e '/^tokenizers\|^huggingface_hub/d' -e 's/^transformers==.*/transformers==4.57.6/' -e 's/^pandas==.*/pandas<3/' \
	  constraints.txt > .venv-peers/constraints.txt
	$(call install,.venv-peers,.venv-peers/constraints.txt,--editable . kvpress==0.5.5 pytest)

clean:
	rm -rf .venv .venv-* build dist demo *.egg-info .mypy_cache .pytest_cache .ruff_cache
