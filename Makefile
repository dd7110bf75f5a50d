# SPDX-License-Identifier: BSD-3-Clause
bin := .venv/bin
# Trials need root, and so do the tests that run trials.
as_root := $(shell [ "$$(id -u)" = 0 ] || ! command -v sudo >/dev/null || echo sudo --preserve-env)
check_root := [ "$$(id -u)" = 0 ] || [ "$(as_root)" ] || { echo "make: trials need root; run this as root, or install sudo" >&2; exit 1; }

bench:  ## measure the booted kernel, and two kernels and those of KERNELS in the lab; show the results
	@$(check_root)
	@tools/set-up
	$(as_root) tools/bench $(KERNELS)

test: lint  ## check everything that CI checks
	@$(check_root)
	@tools/set-up --tests
	$(as_root) $(bin)/pytest

lint:  ## ruff, mypy, import-linter, and the page's JavaScript and CSS
	@tools/set-up --lint
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports
	tools/lint-pages

docs: python  ## build the pages as a site, build/docs/index.html, which needs no network
	$(bin)/sphinx-build -q -W --keep-going --nitpicky docs build/docs

man: python  ## the help of every command as a man page, build/man/kickbench.1
	$(bin)/sphinx-build -q -W --keep-going --nitpicky -b man docs build/man

doctor: python  ## print what is missing on this host; install nothing but .venv
	@$(as_root) $(bin)/kickbench doctor

python:
	@tools/set-up --python

clean:  ## end what killed runs have left, and delete files that can be generated again
	if [ -x $(bin)/kickbench ]; then $(as_root) $(bin)/kickbench clean; fi
	rm -rf .venv .asv/env .asv/html .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build

.PHONY: bench test lint docs man doctor python clean
