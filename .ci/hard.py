"""The long checks of what must hold whatever happens, behind `make check-hard`; each prints its counts.

    .venv/bin/python .ci/hard.py              all of them: an hour or so, and 35 GB of disk for a while
    .venv/bin/python .ci/hard.py --quick      a small part of each, as CI does it
    .venv/bin/python .ci/hard.py images kills those that are named

What a whole check found is kept in reports/checks/hard.csv, which nbs/checks/what_holds.ipynb shows.
"""
import argparse
import csv
import logging
import sys
import warnings
from datetime import date

import torch
from hard_faults import disk, kills, plans
from hard_inputs import checkpoints, images, lists
from hard_machines import machines
from hard_ranks import ranks
from hard_size import bookkeeping, memory
from project import PROJECT

from hyperiqa_nb.core import write_atomically

FOUND = PROJECT/'reports'/'checks'/'hard.csv'
CHECKS = {'images': (images, 1000, 40), 'lists': (lists, 300, 40), 'checkpoints': (checkpoints, 600, 12),
          'kills': (kills, 50, 3), 'plans': (plans, 20, 1), 'disk': (disk, 8, 2),
          'ranks': (ranks, 10, 0), 'bookkeeping': (bookkeeping, 10_000, 200),
          'machines': (machines, 10_000, 0), 'memory': (memory, 10_073, 0)} # Whole; quick, 0 for not at all


def keep(name, said):
    "Put what a check found into the table, in the place of what it found before."
    rows = {}
    if FOUND.is_file():
        with open(FOUND, newline='', encoding='utf-8') as file:
            rows = {row['check']: row for row in csv.DictReader(file)}
    rows[name] = {'check': name, 'found': said, 'date': date.today().isoformat(), 'torch': torch.__version__}
    lines = [','.join(rows[name])] + [','.join(f'"{value}"' for value in rows[check].values())
                                      for check in CHECKS if check in rows]
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(FOUND, '\n'.join(lines) + '\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help=f"of {', '.join(CHECKS)} (default: all)")
    parser.add_argument('--quick', action='store_true', help="a small part of each")
    parser.add_argument('--count', type=int, help="so many cases")
    args = parser.parse_args()
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for name in args.names or CHECKS:
        check, many, few = CHECKS[name]
        count = args.count or (few if args.quick else many)
        if not count: continue
        print(f"{name}: {(said := check(count))}", flush=True)
        if count == many: keep(name, said)


if __name__ == '__main__': sys.exit(main())
