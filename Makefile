# SPDX-License-Identifier: BSD-3-Clause
bin := .venv/bin
# Trials need root, and so do the tests that run trials.
as_root := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env)

bench: set-up  ## measure the booted kernel, and two kernels and those of KERNELS in the lab; show the results
	$(as_root) tools/bench $(KERNELS)

test: lint  ## check everything that CI checks
	@tools/set-up --tests
	$(as_root) $(bin)/pytest

lint:  ## ruff, mypy, import-linter, and the page's JavaScript and CSS
	@tools/set-up --lint
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports
	tools/lint-pages

docs: set-up  ## build the pages as a site, build/docs/index.html, which needs no network
	$(bin)/sphinx-build -q -W --keep-going --nitpicky docs build/docs

man: set-up  ## the help of every command as a man page, build/man/kickbench.1
	$(bin)/sphinx-build -q -W --keep-going --nitpicky -b man docs build/man

doctor:  ## print what is missing on this host; install nothing but .venv
	@tools/set-up --python
	@$(as_root) $(bin)/kickbench doctor

set-up:
	@tools/set-up

clean:  ## end what killed runs have left, and delete files that can be generated again
	if [ -x $(bin)/kickbench ]; then $(as_root) $(bin)/kickbench clean; fi
	rm -rf .venv .asv/env .asv/html .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build

.PHONY: bench test lint docs man doctor set-up clean
