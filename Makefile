# Every target is one call of Python, which prepares what the target needs: `make help` lists them.
# PYTHON is Python 3.11 or newer; ARGS goes to the target's own command (for tests: pytest).
PYTHON ?= python3
ARGS ?=

.PHONY: help demo demo-down test check test-integration test-e2e manifests lock cluster cluster-down images
help demo demo-down test check test-integration test-e2e manifests lock cluster cluster-down images:
	@$(PYTHON) tests/cluster/bootstrap.py $@ $(ARGS)
