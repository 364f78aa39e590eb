"What all checks need: a copy of the project to work in, and a way to call its commands there."
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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


def call(copy, *command, library=None, folder=None):
    "Run a command of the environment in `copy`, with its library and without a network for weights; what it printed."
    env = os.environ | {'PYTHONPATH': str(library or copy), 'PATH': f"{BIN}{os.pathsep}{os.environ['PATH']}",
                        'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'} # Two checks at a time share the cores
    env = {k: v for k, v in env.items() if k not in ('MAKEFLAGS', 'MAKELEVEL', 'MFLAGS')}
    try: done = subprocess.run(command, cwd=folder or copy, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired: raise Failed(f"not done within {LIMIT} s") from None
    if done.returncode: raise Failed(f"{done.stdout.strip()}\nexit status {done.returncode}")
    return done.stdout


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
