# make demo   set up and run the whole chain on the embedded collection
# make test   set up and run the tests
#
# Both make .venv if need be; a second run starts at once.
#   PYTHON=python3.12     which Python .venv is made with (default: the first of the list below that is 3.11 or newer)
#   PIP_ARGS='...'        more options for pip, such as another index:
#                         PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu' gets torch without CUDA
#   DEMO_ARGS, PYTEST_ARGS  more options for `qpeft demo` and pytest

VENV := .venv
SOURCES := qpeft_rerank tests pipelines benchmarks
STAMP := $(VENV)/.installed
CANDIDATES := python3 python3.13 python3.12 python3.11 python
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	"$$python" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo "$$python"; break; }; done)

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	@$(VENV)/bin/qpeft demo $(DEMO_ARGS)

test: $(STAMP)
	@$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)
	@$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[lint]'
	@$(VENV)/bin/ruff check $(SOURCES)
	@$(VENV)/bin/ruff format --check $(SOURCES)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
	  echo "Python 3.11 or newer is needed and none of $(CANDIDATES) is: apt install python3, or make PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	  echo "$(PYTHON) is not Python 3.11 or newer" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: apt install python3-venv" >&2; exit 1; }
	@$(VENV)/bin/python -c '$(NEW_ENOUGH)' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[jdk,test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
