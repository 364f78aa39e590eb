"What all checks need: a copy of the project to work in, and a way to call its commands there."
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from time import monotonic, sleep
from types import ModuleType

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.prefix)/'bin'
LEFT_OUT = {'.git', '.venv', 'data', 'checkpoints', 'logs', 'build', 'dist'} # Where there is no git to say so
LIMIT = 600 # Seconds for one command


class Failed(Exception): pass


def project_files():
    "The files of the project relative to its folder: all that git does not ignore."
    try: listed = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=PROJECT,
                                 capture_output=True, text=True, check=True).stdout.split('\0')
    except (OSError, subprocess.CalledProcessError):
        listed = [str(path.relative_to(PROJECT)) for name in os.listdir(PROJECT) if name not in LEFT_OUT
                  for path in [PROJECT/name, *(PROJECT/name).rglob('*')]]
    return [name for name in listed if (PROJECT/name).is_file() and '__pycache__' not in name]


def copy_project(folder):
    "A copy of the project in `folder`."
    copy = Path(folder)/'project'
    for name in project_files():
        (copy/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT/name, copy/name)
    return copy


def surroundings(library):
    "The environment variables of a check: its library, and no network for weights."
    env = os.environ | {'PYTHONPATH': str(library), 'PATH': f"{BIN}{os.pathsep}{os.environ['PATH']}",
                        'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'} # Two checks at a time share the cores
    return {k: v for k, v in env.items() if k not in ('MAKEFLAGS', 'MAKELEVEL', 'MFLAGS')}


def call(copy, *command, library=None, folder=None):
    "Run a command of the environment in `copy`, with its library and without a network for weights; what it printed."
    try: done = subprocess.run(command, cwd=folder or copy, env=surroundings(library or copy),
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               timeout=LIMIT)
    except subprocess.TimeoutExpired: raise Failed(f"not done within {LIMIT} s") from None
    if done.returncode: raise Failed(f"{done.stdout.strip()}\nexit status {done.returncode}")
    return done.stdout


def call_forked(copy, function, *args):
    """Call a function, which says whether it went well, in a fork of this process, in `copy` and with its library.

    The fork has all libraries that this process has imported, and need not spend seconds on importing them.
    """
    with tempfile.TemporaryFile() as printed:
        if not (child := os.fork()): in_copy(copy, printed, function, args)
        end = monotonic() + LIMIT
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and monotonic() < end: sleep(.05)
        late = not ended[0]
        if late:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        printed.seek(0)
        text = printed.read().decode(errors='replace').strip()
    if late: raise Failed(f"{text}\nnot done within {LIMIT} s")
    if ended[1]: raise Failed(f"{text}\nexit status {os.waitstatus_to_exitcode(ended[1])}")


def in_copy(copy, printed, function, args):
    "What the fork does; it ends here."
    status = 1
    try:
        for stream in (1, 2): os.dup2(printed.fileno(), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(surroundings(copy))
        os.chdir(copy)
        sys.path[0] = str(copy) # In the place of .ci
        sys.modules['__main__'] = ModuleType('__main__') # What starts further processes does not find this program
        status = int(not function(*args))
    except BaseException: traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def contents(folder):
    "Name -> bytes of all files."
    return {str(p.relative_to(folder)): p.read_bytes()
            for p in sorted(folder.rglob('*')) if p.is_file() and p.suffix != '.pyc'}


def cells(notebook):
    "The cells of a notebook, the source of each as one string."
    found = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    return [cell | {'source': ''.join(cell['source'])} for cell in found]


def complain(problems):
    if problems: raise Failed('\n'.join(problems))
