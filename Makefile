# Short names for the two commands of the README.
PYTHON ?= python3

demo:
	$(PYTHON) bootstrap.py demo

test:
	$(PYTHON) bootstrap.py test

.PHONY: demo test
