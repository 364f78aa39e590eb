"""The checks behind `make test`, each in processes of its own and in a copy of the project, which is never touched.

    .venv/bin/python .ci/test.py              all checks
    .venv/bin/python .ci/test.py models       the pages of one part (or checks, or guides)
    .venv/bin/python .ci/test.py 02_fusion    those whose name holds these words: one page, 'README', 'links', ...
    .venv/bin/python .ci/test.py --list       their names
"""
import argparse
import csv
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from functools import partial
from time import perf_counter

import house
from project import PROJECT, Failed, call, contents, copy_project

RUN_PAGE = """
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
passed, _ = test_nb(Path(sys.argv[1]).resolve(), skip_flags=get_config().tst_flags.split(), basepath=Path.cwd())
sys.exit(not passed)
"""
REPORTS = ['errors'] # Those that have something to say of one run of one epoch


def page(path, copy):
    "Every cell of a page runs."
    call(copy, sys.executable, '-c', RUN_PAGE, path)


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
              'the wheel is whole': house.wheel_is_whole,
              'extending: one new page of each of five': house.five_new_pages,
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


def perform(name, check):
    "Print one line, and what went wrong; True if the check passed."
    start, problem = perf_counter(), ''
    with tempfile.TemporaryDirectory(prefix='hyperiqa_nb-', ignore_cleanup_errors=True) as folder:
        try: check(copy=copy_project(folder))
        except Exception as error: problem = f"{type(error).__name__}: {error}\n"
    print(f"{'FAILED' if problem else 'ok':7}{name:45}{perf_counter() - start:6.1f} s\n{problem}", end='', flush=True)
    return not problem


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('words', nargs='*', help="a part, or words of names (default: all checks)")
    parser.add_argument('--jobs', type=int, choices=[1, 2], default=2, help="checks at a time (default: 2)")
    parser.add_argument('--list', action='store_true', help="only show the names")
    args = parser.parse_args()
    checks = chosen(all_checks(), args.words)
    if args.list: sys.exit(print(*checks, sep='\n'))
    with ThreadPoolExecutor(args.jobs) as pool: passed = list(pool.map(perform, checks, checks.values()))
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    sys.exit(not passed or not all(passed))


if __name__ == '__main__': main()
