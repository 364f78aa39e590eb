"""The checks behind `make test`, each in processes of its own and in a copy of the project, which is never touched.

A line says how long a check took, on the clock and on the processor.

    .venv/bin/python .ci/test.py              all checks
    .venv/bin/python .ci/test.py models       the pages of one part (or checks, or guides)
    .venv/bin/python .ci/test.py 02_fusion    those whose name holds these words: one page, 'README', 'links', ...
    .venv/bin/python .ci/test.py --list       their names
"""
import argparse
import csv
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from difflib import unified_diff
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter

import house
from project import PROJECT, Failed, call, call_forked, contents, copy_project, surroundings

LIBRARIES = ['nbdev.test', 'torch', 'timm', 'accelerate', 'pandas', 'scipy.stats', 'matplotlib.pyplot', 'seaborn',
             'skimage.data', 'papermill'] # Imported once, and there in every page's process
REPORTS = ['errors'] # Those that have something to say of one run of one epoch
# These start first
LONGEST = ['shared_runs', 'several_machines', 'stages', 'tiny plan', 'maniqa_scores', 'hard checks', 'extending',
           'guides', 'checks', 'evidence', 'use']


def page(path, copy):
    "Every cell of a page runs, in a process of its own."
    call_forked(copy, run_page, path)


def run_page(path):
    "Whether all cells run; what fails is printed."
    from nbdev.config import get_config
    from nbdev.test import test_nb
    flags = get_config().tst_flags.split()
    return test_nb(Path(path).resolve(), skip_flags=flags, basepath=Path.cwd())[0]


def changes_nothing(*command, copy):
    "A command that generates files leaves the project as it is."
    before = contents(copy)
    call(copy, *command)
    after = contents(copy)
    changed = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    if not changed: return
    old, new = ([*side.get(changed[0], b'').decode(errors='replace').splitlines()] for side in (before, after))
    difference = list(unified_diff(old, new, lineterm='', n=1))[:40]
    raise Failed('\n'.join([f"`{' '.join(command)}` changes {', '.join(changed)}:", *difference]))


def call_in(*command, copy):
    "A command ends well."
    call(copy, *command)


def tiny_run(copy):
    "The commands go from a plan of one row to a report."
    call(copy, 'hyperiqa_run', 'reports/plans/tiny.csv')
    with open(copy/'reports/tiny/metrics.csv', newline='') as file: rows = list(csv.DictReader(file))
    if not any((row['split'], row['metric']) == ('test', 'srcc') for row in rows):
        raise Failed(f"metrics.csv has {len(rows)} rows and no test SRCC")
    call(copy, 'hyperiqa_report', 'reports/plans/tiny.csv')
    pages = sorted(page.stem for page in (copy/'reports/tiny').glob('*.html'))
    if pages != REPORTS: raise Failed(f"hyperiqa_report wrote {', '.join(pages)}, not {', '.join(REPORTS)}")


def all_checks():
    "Name -> function of a copy of the project; the pages are those of the folders."
    readme = ['make', 'readme', f'VENV={sys.prefix}', f'--old-file={sys.prefix}/.installed']
    checks = {'nbdev_export changes nothing': partial(changes_nothing, 'nbdev_export'),
              'nbdev_clean changes nothing': partial(changes_nothing, 'nbdev_clean'),
              'README.md is what index.ipynb gives': partial(changes_nothing, *readme),
              'ruff': partial(call_in, 'ruff', 'check'),
              'imports go down only': house.imports_go_down,
              'pages mirror modules': house.pages_mirror_modules,
              'links lead somewhere': house.links_lead_somewhere,
              'help is light': house.help_is_light,
              'no state of widgets': house.no_state_of_widgets,
              'commands for one process': house.one_process_each,
              'the wheel is whole': house.wheel_is_whole,
              'extending: one new page of each of five': house.five_new_pages,
              'hard checks, a small part of each': partial(call_in, sys.executable, '.ci/hard.py', '--quick'),
              'tiny plan, from run to report': tiny_run}
    pages = sorted(str(p.relative_to(PROJECT)) for p in (PROJECT/'nbs').rglob('*.ipynb')
                   if not {'experiments', '.ipynb_checkpoints'} & set(p.parts))
    return checks | {path: partial(page, path) for path in pages}


def chosen(checks, words):
    "Those in a folder that a word names, or whose name holds it."
    found = {}
    for word in words:
        folder = [name for name in checks if word in name.split('/')[:-1]]
        found |= {name: checks[name] for name in folder or [name for name in checks if word in name]}
    return found if words else checks


def place(name):
    "Where a check stands in the queue, so that no long one is left for the end."
    return next((n for n, word in enumerate(LONGEST) if word in name), len(LONGEST))


def perform(name, check, data):
    """Do one check, and print a line with its time, that on the clock and that of the processor, and what went wrong.

    Gives whether it passed. `data` is the folder `data` of all copies: what one check builds
    there, the demo, the others find. A process of the pool does one check at a time, so its times are the check's.
    """
    clock, used, problem = perf_counter(), sum(os.times()[:4]), ''
    with tempfile.TemporaryDirectory(prefix='hyperiqa_nb-', ignore_cleanup_errors=True) as folder:
        copy = copy_project(folder)
        (copy/'data').symlink_to(data)
        try: check(copy=copy)
        except Exception as error: problem = f"{type(error).__name__}: {error}\n"
    clock, used = perf_counter() - clock, sum(os.times()[:4]) - used
    print(f"{'FAILED' if problem else 'ok':7}{name:45}{clock:6.1f} s {used:6.1f} s CPU\n{problem}", end='', flush=True)
    return not problem


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('words', nargs='*', help="a part, or words of names (default: all checks)")
    parser.add_argument('--jobs', type=int, choices=[1, 2], default=2, help="checks at a time (default: 2)")
    parser.add_argument('--list', action='store_true', help="only show the names")
    args = parser.parse_args()
    checks = chosen(all_checks(), args.words)
    if args.list: sys.exit(print(*checks, sep='\n'))
    names, start = sorted(checks, key=place), perf_counter()
    os.environ.update(surroundings(PROJECT)) # Before torch is imported
    if any(name.endswith('.ipynb') for name in names):
        for library in LIBRARIES: import_module(library)
    with tempfile.TemporaryDirectory(prefix='hyperiqa_nb-data-') as data, ProcessPoolExecutor(args.jobs) as pool:
        done = list(pool.map(perform, names, map(checks.get, names), [Path(data)] * len(names)))
    print(f"{perf_counter() - start:.0f} s, {sum(os.times()[:4]):.0f} s CPU") # With what this process imported
    print(f"{sum(done)} passed, {len(done) - sum(done)} failed")
    sys.exit(not done or not all(done))


if __name__ == '__main__': main()
