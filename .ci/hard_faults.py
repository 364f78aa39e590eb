"Faults: trainings and plans that are killed at any moment, and disks that are full, at every place that writes."
import contextlib
import hashlib
import io
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hard_inputs import photograph
from torch import nn

from hyperiqa_nb.core import InputError, register
from hyperiqa_nb.data import ImageSet, build_demo, load_dataset, load_images, split_dataset
from hyperiqa_nb.evidence import compare_command, write_index
from hyperiqa_nb.models import load_model, save_checkpoint
from hyperiqa_nb.runs import execute, prepare_command, read_table, run_command, train_command
from hyperiqa_nb.training import Recipe, Trainer, without_fits
from hyperiqa_nb.use import HubScorer, export_command, read_bytes, score_command
from hyperiqa_nb.use.benchmark import add_machine


class Body(nn.Module):
    name, weights_source, size = 'small', 'random', (3, 48, 48)
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 5, 4), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    def forward(self, x): return self.layers(x).flatten(1)


@register('model', 'small', 'something with dropout, batch normalisation and little to compute')
class Small(nn.Module):
    mean, std = (.5, .5, .5), (.2, .2, .2)
    def __init__(self, pretrained: bool = False):
        super().__init__()
        self.backbone, self.head = Body(), nn.Sequential(nn.Dropout(.2), nn.Linear(16, 1))
        self.config = {}
    def features(self, x): return {'means': self.backbone(x)}
    def score(self, features): return self.head(features['means']).flatten()
    def forward(self, x): return self.score(self.features(x))
    def parameter_groups(self): return {'backbone': [*self.backbone.parameters()], 'head': [*self.head.parameters()]}


def in_child(function, *args, size=None) -> int: # Bytes that a file may have at most; the process
    "Call a function in a process of its own, which need not load the library again; `ended` gives what it says."
    if child := os.fork(): return child
    code, said = 1, io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if size is not None: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            function(*args)
            code = 0
        except InputError as error: code = print(error) or 2
        except SystemExit as end: code = end.code or 0
        except KeyboardInterrupt: code = 130
        except BaseException: traceback.print_exc()
    os.write(SAY, said.getvalue().encode()[-3000:])
    os._exit(code)


HEAR, SAY = os.pipe() # What the children say
os.set_blocking(HEAR, False)


def ended(child) -> tuple: # (exit status, negative for a signal; what it said)
    "Wait for a process."
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try: return status, os.read(HEAR, 1 << 16).decode(errors='replace')
    except BlockingIOError: return status, '' # It was killed


def make_dataset(folder, count=60):
    "Small photographs with scores."
    rng = np.random.default_rng(0)
    for n in range(count): photograph(rng).save(folder/f'{n}.png')
    table = pd.DataFrame({'image': [f'{n}.png' for n in range(count)], 'mos': rng.uniform(0, 100, count)})
    table.to_csv(folder/'scores.csv', index=False)
    return folder/'scores.csv'


# Trainings that are killed

def all_of(trainer, state) -> str: # A hash
    "Train, and make one text of all that came of it: history, less curve fits (not exact to the bit), and weights."
    history = without_fits(trainer.fit(progress=False, state=state)).drop(columns='seconds')
    digest = hashlib.sha256(history.to_csv().encode())
    for name, tensor in trainer.net.state_dict().items(): digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def in_words(outcomes: dict) -> str: # What was done -> how often
    "'50 killed, 12 asked to stop'."
    return ', '.join(f'{times} {how}' for how, times in outcomes.items())


def train(state, result):
    "Train, and write down all that came of it."
    rng = np.random.default_rng(0)
    sets = [ImageSet([f'{part}{n}' for n in range(size)], [np.asarray(photograph(rng, 64)) for _ in range(size)],
                     np.float32(rng.uniform(0, 100, size))) for part, size in (('train', 60), ('val', 20))]
    torch.manual_seed(1)
    recipe = Recipe(epochs=5, batch_size=6, crop_size=48, test_crops='grid4', ema=.9, lr=1e-3, optimizer='adamw')
    trainer = Trainer(Small(), *sets, recipe)
    Path(result).write_text(all_of(trainer, state))


def kills(count):
    "A training that is killed at a random moment, or asked to stop, and goes on ends like one that nothing disturbed."
    rng, outcomes = random.Random(0), {'killed': 0, 'asked to stop': 0, 'done before': 0}
    with tempfile.TemporaryDirectory() as name:
        folder, n, seconds = Path(name), 0, 60.
        for part in ('first', 'whole'):
            start = time.perf_counter()
            assert ended(in_child(train, folder/f'{part}.pt', folder/part))[0] == 0
            seconds = min(seconds, time.perf_counter() - start)
        wanted = (folder/'whole').read_text()
        while outcomes['killed'] < count:
            n += 1
            state, result = folder/f'{n}.pt', folder/f'{n}'
            kind = signal.SIGTERM if n % 5 == 0 else signal.SIGKILL
            child = in_child(train, state, result)
            time.sleep(rng.uniform(0, seconds))
            with contextlib.suppress(ProcessLookupError): os.kill(child, kind)
            ended(child)
            cut = 'asked to stop' if kind == signal.SIGTERM else 'killed'
            outcomes['done before' if result.exists() else cut] += 1
            result.unlink(missing_ok=True)
            ended(in_child(train, state, result))
            assert result.exists() and result.read_text() == wanted, f"training {n} ended unlike the undisturbed one"
            assert not list(folder.glob('.*.partial')), "a partial file is left"
    return f"{n} trainings ended bit for bit like the undisturbed one: {in_words(outcomes)}"


# Plans that are killed

MADE = ['seconds', 'cpu_seconds', 'finished', 'checkpoint', 'commit']


def make_plan(folder, seeds):
    "A plan of small runs, one a seed."
    rows = [f'small,{folder}/scores.csv,small,False,3,48,8,center,.9,{seed}' for seed in seeds]
    head = 'variant,dataset,model,pretrained,epochs,crop_size,batch_size,test_crops,ema,seed'
    (folder/'plan.csv').write_text('\n'.join([head, *rows]) + '\n')
    return folder/'plan.csv'


def do_plan(plan, out):
    "`hyperiqa_run` in the folder of its results."
    out.mkdir(exist_ok=True)
    os.chdir(out) # Logs and checkpoints too
    run_command([str(plan), '--out', str(out), '--in_process'])


def all_figures(out) -> list: # Of tables as dicts
    "All that the runs of a plan have computed, without their times."
    keys = {'runs': ['run_id'], 'curves': ['run_id', 'epoch'], 'metrics': ['run_id', 'split', 'metric'],
            'predictions': ['seed', 'part', 'image']}
    tables = [read_table(out, name).sort_values(by) for name, by in keys.items()]
    return [table[sorted(set(table) - set(MADE))].to_dict('list') for table in tables]


def finished(out) -> dict: # run_id -> moment
    "The runs that are done."
    runs = read_table(out, 'runs') if out.is_dir() else pd.DataFrame(columns=['run_id', 'finished'])
    return dict(zip(runs.run_id, runs.finished)) if len(runs) else {}


def plans(count):
    "A plan that is killed again and again, one or two commands at a time, repeats no finished run and ends alike."
    rng, killed, starts = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder)
        plan, start = make_plan(folder, [1, 2, 3]), time.perf_counter()
        status, said = ended(in_child(do_plan, plan, folder/'whole'))
        assert status == 0, said
        seconds, whole = time.perf_counter() - start, all_figures(folder/'whole')
        for n in range(count):
            out, done = folder/f'plan{n}', {}
            while len(done) < 3:
                children = [in_child(do_plan, plan, out) for _ in range(1 + n % 2)]
                starts += len(children)
                time.sleep(rng.uniform(0, seconds))
                with contextlib.suppress(ProcessLookupError): os.kill(children[0], signal.SIGKILL)
                for child in children:
                    status, said = ended(child)
                    killed += status == -signal.SIGKILL
                    assert status in (0, -signal.SIGKILL), said
                now = finished(out)
                assert done.items() <= now.items(), "a finished run was done again"
                done = now
            assert all_figures(out) == whole, f"plan {n} ended unlike the undisturbed one"
            assert not list(out.rglob('*.partial')) and not list(out.rglob('state-*.pt')), "something is left"
            shutil.rmtree(out)
    return (f"{count} plans of 3 runs, one or two commands at a time, {starts} commands, {killed} of them killed: all "
            "ended with the figures of the undisturbed one, and no finished run was done again")


# Disks that are full

def training(folder, out, *more):
    "`hyperiqa_train` in the folder of its results."
    os.environ['HYPERIQA_CACHE'] = str(out/'cache')
    os.chdir(out)
    train_command([str(folder/'scores.csv'), '--model', 'small', '--no_pretrained', '--epochs', '2', '--crop_size',
                   '48', '--batch_size', '8', '--drop_path_rate', '0', '--resume', '--out', str(out/'records'), *more])


def upload(folder, out):
    "A photograph that is dropped on the app's page."
    os.environ['TMPDIR'], tempfile.tempdir = str(out), None
    read_bytes('0.png', (folder/'0.png').read_bytes(), load_model())


def notebook(folder, out):
    "An executed notebook."
    import nbformat
    cell = nbformat.v4.new_code_cell('epochs = 1', metadata={'tags': ['parameters']})
    kernel = {'name': 'python3', 'display_name': 'python3', 'language': 'python'}
    if not (folder/'a.ipynb').exists():
        nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={'kernelspec': kernel}), folder/'a.ipynb')
    execute(folder/'a.ipynb', out/'runs'/'a.ipynb', {'epochs': 2})


def writers(folder) -> dict: # Name -> function of a folder that it writes into
    "All places that write."
    scores, photo = folder/'scores.csv', str(folder/'0.png')
    tested = split_dataset(load_dataset(scores)).subset('test').table
    guess = folder/'guess.csv'
    tested[['image', 'mos']].rename(columns={'mos': 'prediction'}).to_csv(guess, index=False)
    def decoded(out): load_images(load_dataset(scores), 48, progress=False, memory=0, cache=out/'cache')
    row = {'kind': 'laptop', 'machine': 'mine', 'threads': 1, 'model': 'small'}
    return {'report of hyperiqa_prepare': lambda out: prepare_command([str(scores), '--report', str(out/'r.csv')]),
            'the demo': lambda out: build_demo(out/'demo', progress=False),
            'decoded photographs': decoded,
            'log, history, state, checkpoint and record of hyperiqa_train': partial(training, folder),
            'kept features': lambda out: training(folder, out, '--frozen_backbone'),
            'a plan and its tables': lambda out: do_plan(folder/'plan.csv', out/'plan'),
            'notebook': partial(notebook, folder),
            'list of reports': lambda out: write_index(out),
            'rows of hyperiqa_score': lambda out: score_command([photo, photo, '--out', str(out/'rows.csv')]),
            'maps of hyperiqa_score': lambda out: score_command([photo, '--map', str(out/'maps')]),
            'checkpoint': lambda out: save_checkpoint(load_model(), out/'a.safetensors'),
            'bare weights': lambda out: save_checkpoint(load_model(), out/'a.pkl'),
            'ONNX file': lambda out: export_command([str(out/'a.onnx'), '--size', '64x64']),
            'folder for the Hub': lambda out: HubScorer(load_model()).save_pretrained(out/'hub'),
            'table of hyperiqa_compare':
                lambda out: compare_command([str(scores), str(guess), '--out', str(out/'table.csv')]),
            'table of machines': lambda out: add_machine(out/'machines.csv', [row]),
            'upload to the app': partial(upload, folder)}


def contents(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def try_full(name, write, out, size) -> bool: # Whether it failed
    "Write while no file may have more than `size` bytes: it goes well, or ends in one message, and nothing is left."
    before = contents(out)
    status, said = ended(in_child(write, out, size=size))
    about = f"{name} with {size:,} bytes, status {status}: {said}"
    assert status in (0, 2) or status == 1 and 'failed:' in said, about # The latter says `hyperiqa_run`
    after = contents(out)
    assert not [path for path in after if 'partial' in path], about
    if not status: return False
    assert 'cannot be written' in said and 'Traceback' not in said, about
    assert str(out) in said or 'TMPDIR' in said, about
    kept = [path for path in before if not path.endswith(('.log', 'history.csv', '.lock'))]
    assert all(before[path] == after.get(path) for path in kept), f"{about}\nlost or changed an earlier file"
    return True


SLOW = ['the demo', 'notebook', 'ONNX file', 'maps of hyperiqa_score', 'folder for the Hub', 'upload to the app',
        'kept features'] # Left out where little is to be tried


def try_place(place, write, folder, count) -> tuple: # (times that a disk was full, of which it was too full)
    "One place on disks that are full after so many bytes, empty at first and then with an earlier result."
    tried = failed = 0
    (whole := folder/'whole').mkdir()
    status, said = ended(in_child(write, whole))
    assert status == 0, f"{place}: {said}"
    sizes = sorted({0, *(len(data) - 1 for data in contents(whole).values() if len(data) > 1)})
    for size in sorted({sizes[round(n)] for n in np.linspace(0, len(sizes) - 1, count)}):
        (out := folder/'out').mkdir()
        failed += try_full(place, write, out, size)
        status, said = ended(in_child(write, out))
        assert status == 0, f"{place}, again after {size:,} bytes: {said}"
        failed += try_full(place, write, out, size)
        tried += 2
        shutil.rmtree(out)
    return tried, failed


def disk(count): # Sizes that are tried of each
    "At every place that writes a disk is full after so many bytes; then there is room, and the same command goes on."
    found, wrong = {}, []
    with tempfile.TemporaryDirectory() as name:
        (folder := Path(name)/'from').mkdir()
        make_dataset(folder)
        make_plan(folder, [1, 2])
        for place, write in writers(folder).items():
            if count < 3 and place in SLOW: continue
            with tempfile.TemporaryDirectory() as out:
                try: found[place] = try_place(place, write, Path(out), count)
                except AssertionError as error: wrong.append(str(error))
    assert not wrong, '\n\n'.join(wrong)
    tried, failed = (sum(counts) for counts in zip(*found.values()))
    return (f"{len(found)} places that write, {tried} times on a disk that was full: {failed} ended in one message, "
            "the others had room; no partial file was left, no earlier result lost, and with room all went on")
