"""A training by two processes that torchrun starts, of which one is killed, or both are asked to stop."""
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from hard_faults import Small, all_of, in_words

from hyperiqa_nb.data import ImageSet
from hyperiqa_nb.training import Ranks, Recipe, Trainer


def train(state, result):
    "One of the processes: train, and write down what came of it."
    rng, sets = np.random.default_rng(0), []
    for part, size in (('train', 61), ('val', 21)): # Neither can be halved
        pixels = list(rng.integers(0, 256, (size, 64, 64, 3)).astype(np.uint8))
        sets.append(ImageSet([f'{part}{n}' for n in range(size)], pixels, np.float32(rng.uniform(0, 100, size))))
    torch.manual_seed(1)
    recipe = Recipe(epochs=25, patience=25, batch_size=6, crop_size=48, test_crops='grid4', ema=.9, lr=1e-3,
                    loss='plcc')
    trainer = Trainer(Small(), *sets, recipe)
    came = all_of(trainer, state)
    if Ranks().first: Path(result).write_text(came)


def start(state, result) -> subprocess.Popen:
    "Two processes that `train`."
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', __file__, state, result]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def after_an_epoch(process, state: Path) -> float: # Of the clock
    "When the first state is on the disk."
    while not state.exists() and process.poll() is None: time.sleep(.05)
    return time.perf_counter()


def disturb(process, rng) -> str: # What was done
    "Kill one of the processes, or ask all to stop."
    workers = psutil.Process(process.pid).children()
    if len(workers) == 2 and rng.random() < .7:
        rng.choice(workers).kill()
        return 'killed'
    process.send_signal(signal.SIGTERM)
    return 'asked to stop'


def ranks(count):
    "Trainings that lose a process, or are asked to stop, end all their processes, and go on as if nothing had been."
    rng, outcomes = random.Random(0), {'killed': 0, 'asked to stop': 0, 'done before': 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = start(folder/'whole.pt', folder/'whole')
        begun = after_an_epoch(process, folder/'whole.pt')
        assert process.wait(600) == 0
        seconds, wanted = time.perf_counter() - begun, (folder/'whole').read_text()
        for n in range(count):
            state, result = folder/f'{n}.pt', folder/f'{n}'
            process = start(state, result)
            after_an_epoch(process, state)
            time.sleep(rng.uniform(0, .7) * seconds)
            try: what = disturb(process, rng)
            except psutil.NoSuchProcess: what = 'done before'
            process.wait(60) # Nobody waits for a process that is gone
            outcomes['done before' if result.exists() else what] += 1
            result.unlink(missing_ok=True)
            assert (status := start(state, result).wait(600)) == 0, f"training {n}, {what}, cannot go on: {status}"
            assert result.read_text() == wanted, f"training {n}, {what}, ended otherwise"
            assert not list(folder.glob('.*.partial')), "a partial file is left"
    said = in_words(outcomes)
    return f"{count} trainings by two processes ended bit for bit like the undisturbed one: {said}"


if __name__ == '__main__': train(*sys.argv[1:])
