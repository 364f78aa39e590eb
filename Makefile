# `make` lists the targets. The first one that needs the environment builds it: .venv, about 6 GB with torch.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
SHELL = /bin/bash
NOTHING_FROM_OUTSIDE = {'headers': {'Content-Security-Policy': 'default-src \'self\' data: blob: \'unsafe-inline\' \
	\'unsafe-eval\''}}

.PHONY: help install report test check-hard check-pyiqa lab app speed export readme

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { print $$1 "\t" $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## Build the environment in .venv
$(VENV)/.installed: settings.ini setup.py
	$(PYTHON) -m venv $(VENV)
	set -o pipefail; $(BIN)/pip install --disable-pip-version-check --progress-bar off -e '.[dev]' \
		| grep --line-buffered -oE '^ *(Downloading|Using cached|Building|Installing|Successfully) .{1,90}'
	touch $@

report: install  ## Train the demo's runs and write their reports, notebooks and HTML: reports/demo
	$(BIN)/hyperiqa_run reports/plans/demo.csv --only default whole
	$(BIN)/hyperiqa_run reports/plans/demo.csv --in_process
	$(BIN)/hyperiqa_report reports/plans/demo.csv

test: install  ## Run every page and all checks, in copies of this folder
	@$(BIN)/python .ci/test.py

check-hard: install  ## What must hold whatever happens, at length: odd files, kills, full disks, memory (an hour or so, and 35 GB of disk)
	@$(BIN)/python .ci/hard.py

lab: install  ## Read and run the pages in JupyterLab
	$(BIN)/jupyter lab --ServerApp.root_dir='$(CURDIR)' nbs/index.ipynb

app: install  ## Score photographs in the browser, on a page that only this machine can open
	$(BIN)/voila nbs/app.ipynb --Voila.ip=127.0.0.1 --Voila.tornado_settings="$(NOTHING_FROM_OUTSIDE)" $(OPTIONS)

check-pyiqa: install  ## Try the adapter in pyiqa itself, which is fetched for it and deleted again
	$(BIN)/python .ci/check_pyiqa.py

speed: install  ## Measure how fast everything is on this machine: reports/speed, about 20 minutes with nothing else running
	$(BIN)/hyperiqa_benchmark --table reports/speed/machines.csv
	$(BIN)/python -c "from hyperiqa_nb.evidence import write_report; print('Report:', write_report('speed', 'reports/speed', {}))"

export: install  ## Write hyperiqa_nb/*/*.py from the pages, and clean the pages
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

readme: install  ## Write README.md from nbs/index.ipynb
	$(BIN)/python .ci/readme.py
