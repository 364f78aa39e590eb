"""The long checks of what must hold whatever happens, behind `make check-hard`; each prints its counts.

    .venv/bin/python .ci/hard.py              all of them: an hour or so, and 35 GB of disk for a while
    .venv/bin/python .ci/hard.py --quick      a small part of each, as CI does it
    .venv/bin/python .ci/hard.py images kills those that are named

Each is done in a process of its own, which removes what it made; where one fails the others go on, and what failed is
said again at the end. What a whole check found, and how long it took, is kept in reports/checks/hard.csv, which
nbs/checks/what_holds.ipynb shows.
"""
import argparse
import csv
import logging
import signal
import sys
import traceback
import warnings
from datetime import date
from multiprocessing import get_context
from time import perf_counter

import torch
from hard_faults import disk, kills, plans
from hard_inputs import checkpoints, images, lists
from hard_machines import machines
from hard_ranks import ranks
from hard_size import bookkeeping, memory
from project import PROJECT

from hyperiqa_nb.core import write_atomically

FOUND = PROJECT/'reports'/'checks'/'hard.csv'
COLUMNS = ['check', 'found', 'date', 'torch', 'minutes'] # The last of the clock, whatever else the machine did
CHECKS = {'images': (images, 1000, 40), 'lists': (lists, 300, 40), 'checkpoints': (checkpoints, 600, 12),
          'kills': (kills, 50, 2), 'plans': (plans, 20, 1), 'disk': (disk, 8, 2),
          'ranks': (ranks, 10, 0), 'bookkeeping': (bookkeeping, 10_000, 200),
          'machines': (machines, 10_000, 0), 'memory': (memory, 10_073, 0)} # Whole; quick, 0 for not at all
USUAL = 12 # Minutes of a check whose time is not known


def records() -> dict: # Name -> row
    "What the checks found when they last ran whole."
    if not FOUND.is_file(): return {}
    with open(FOUND, newline='', encoding='utf-8') as file: return {row['check']: row for row in csv.DictReader(file)}


def keep(name, said, minutes):
    "Put what a check found into the table, in the place of what it found before."
    rows = records()
    rows[name] = {'check': name, 'found': said, 'date': date.today().isoformat(), 'torch': torch.__version__,
                  'minutes': f'{minutes:.1f}'}
    lines = [','.join(COLUMNS)] + [','.join(f'"{rows[check].get(column) or ""}"' for column in COLUMNS)
                                   for check in CHECKS if check in rows]
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(FOUND, '\n'.join(lines) + '\n')


def expected(name, count) -> float: # Minutes
    "How long a check may take, by how long it took when it last ran whole."
    return float(records().get(name, {}).get('minutes') or USUAL) * count / CHECKS[name][1]


def perform(name, count, pipe):
    "Do a check, in a process of its own, and send (whether all held, what to say)."
    for number in (signal.SIGTERM, signal.SIGINT): # So that what it made is removed
        signal.signal(number, lambda *_: sys.exit(143))
    try: pipe.send((True, CHECKS[name][0](count)))
    except Exception: pipe.send((False, traceback.format_exc()))


def follow(name, count, left # Minutes of all that is left
          ) -> tuple: # (whether all held, what to say)
    "Have a check done, and say every minute how far it is."
    context, start = get_context('fork'), perf_counter()
    hear, say = context.Pipe(False)
    process = context.Process(target=perform, args=(name, count, say))
    process.start()
    say.close()
    try:
        while not hear.poll(60):
            done = (perf_counter() - start) / 60
            print(f"  {name}: {done:.0f} of about {expected(name, count):.0f} minutes; about "
                  f"{max(left - done, 1):.0f} until all are done", file=sys.stderr, flush=True)
        return hear.recv()
    except EOFError:
        process.join()
        return False, f"its process has ended ({process.exitcode})"
    finally:
        process.terminate()
        process.join()


def do_all(counts: dict # Name -> cases
          ) -> list: # Of names
    "Do checks one after the other; those that failed."
    times, failed = {name: expected(name, count) for name, count in counts.items()}, []
    print(f"{len(counts)} checks, about {sum(times.values()):.0f} minutes", file=sys.stderr, flush=True)
    for name, count in counts.items():
        start = perf_counter()
        held, said = follow(name, count, sum(times.values()))
        minutes = (perf_counter() - start) / 60
        del times[name]
        print(f"{name}: {said}" if held else f"{name} FAILED: {said}", flush=True)
        if not held: failed.append(name)
        elif count == CHECKS[name][1]: keep(name, said, minutes)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help=f"of {', '.join(CHECKS)} (default: all)")
    parser.add_argument('--quick', action='store_true', help="a small part of each")
    parser.add_argument('--count', type=int, help="so many cases")
    args = parser.parse_args()
    if wrong := set(args.names) - set(CHECKS): parser.error(f"{', '.join(wrong)} is not one of {', '.join(CHECKS)}")
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler) # As Ctrl-C: ends the check that is going on, too
    counts = {name: args.count or CHECKS[name][2 if args.quick else 1] for name in args.names or CHECKS}
    counts = {name: count for name, count in counts.items() if count}
    try: failed = do_all(counts)
    except KeyboardInterrupt: return "stopped; what was found before is kept"
    print(f"{len(counts) - len(failed)} checks held, {len(failed)} failed{''.join(f', {name}' for name in failed)}")
    return int(bool(failed))


if __name__ == '__main__': sys.exit(main())
