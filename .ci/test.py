"""The checks behind `make test`, each in processes of its own and in copies of the project, so that the project is never touched.

    .venv/bin/python .ci/test.py               all checks, one after the other
    .venv/bin/python .ci/test.py 08 README     those whose name holds one of these words
    .venv/bin/python .ci/test.py --jobs 2      two at a time
"""
import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from functools import partial
from pathlib import Path
from time import perf_counter

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.prefix)/'bin'
LEFT_OUT = {PROJECT/name for name in ('.git', '.venv', 'data', 'checkpoints', 'logs', 'build', 'dist', 'reports/demo')}
LIMIT = 600 # Seconds for one check

RUN_PAGE = """
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
passed, _ = test_nb(Path(sys.argv[1]).resolve(), skip_flags=get_config().tst_flags.split(), basepath=Path.cwd())
sys.exit(not passed)
"""


class Failed(Exception): pass


def copy_project(folder):
    "A copy of the project in `folder`, without what git ignores."
    def left_out(parent, names):
        return [n for n in names if Path(parent)/n in LEFT_OUT or n in ('__pycache__', '.ipynb_checkpoints') or n.endswith('.egg-info')]
    return Path(shutil.copytree(PROJECT, Path(folder)/'project', ignore=left_out))


def call(copy, *command):
    "Run a command of the environment in `copy`, with the library of the copy and without a network for weights."
    env = os.environ | dict(PYTHONPATH=str(copy), PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}", HF_HUB_OFFLINE='1')
    env = {k: v for k, v in env.items() if k not in ('MAKEFLAGS', 'MAKELEVEL', 'MFLAGS')}
    try: done = subprocess.run(command, cwd=copy, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired: raise Failed(f"not done within {LIMIT} s") from None
    if done.returncode: raise Failed(f"{done.stdout.strip()}\nexit status {done.returncode}")


def page(path, copy):
    "Every cell of a page runs."
    call(copy, sys.executable, '-c', RUN_PAGE, path)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file() and p.suffix != '.pyc'}


def changes_nothing(*command, copy):
    "A command that generates files leaves the project as it is."
    before = contents(copy)
    call(copy, *command)
    after = contents(copy)
    changed = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    if changed:
        old, new = ([*side.get(changed[0], b'').decode(errors='replace').splitlines()] for side in (before, after))
        raise Failed('\n'.join([f"`{' '.join(command)}` changes {', '.join(changed)}:", *list(unified_diff(old, new, lineterm='', n=1))[:40]]))


def tiny_run(copy):
    "The commands go from a plan of one row to a report."
    call(copy, 'hyperiqa_run', 'reports/plans/tiny.csv')
    with open(copy/'reports/tiny/results.csv', newline='') as file: rows = list(csv.DictReader(file))
    if not any((row['split'], row['metric']) == ('test', 'srcc') for row in rows):
        raise Failed(f"results.csv has {len(rows)} rows and no test SRCC")
    call(copy, 'hyperiqa_report', 'reports/plans/tiny.csv')
    pages, expected = {page.stem for page in (copy/'reports/tiny').glob('*.html')}, {'ablation', 'sota', 'examine'} # One run tests no claim
    if pages != expected: raise Failed(f"hyperiqa_report wrote {', '.join(sorted(pages))}, not {', '.join(sorted(expected))}")


def all_checks():
    "Name -> function of a copy of the project."
    generated = {'nbdev_export changes nothing': ('nbdev_export',), 'nbdev_clean changes nothing': ('nbdev_clean',),
                 'README.md is what index.ipynb gives': ('make', 'readme', f'VENV={sys.prefix}', f'--old-file={sys.prefix}/.installed')}
    checks = {name: partial(changes_nothing, *command) for name, command in generated.items()}
    pages = sorted(str(p.relative_to(PROJECT)) for folder in ('nbs', 'nbs/checks', 'nbs/guides') for p in (PROJECT/folder).glob('*.ipynb'))
    return checks | {path: partial(page, path) for path in pages} | {'tiny plan, from run to report': tiny_run}


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
    parser.add_argument('words', nargs='*', help="only the checks whose name holds one of these words (default: all)")
    parser.add_argument('--jobs', type=int, choices=[1, 2], default=1, help="checks at a time (default: 1)")
    args = parser.parse_args()
    checks = {name: check for name, check in all_checks().items() if not args.words or any(word in name for word in args.words)}
    with ThreadPoolExecutor(args.jobs) as pool: passed = list(pool.map(perform, checks, checks.values()))
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    sys.exit(not passed or not all(passed))


if __name__ == '__main__': main()
