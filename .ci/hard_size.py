"Size: memory that does not grow with a dataset, decoded photographs on the disk nearly as quick, ten thousand runs."
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import pandas as pd
import torch
from PIL import Image

from hyperiqa_nb.data import ImageSet, check_dataset, load_dataset, load_image, load_images, photographs
from hyperiqa_nb.models import create_model
from hyperiqa_nb.runs import PlannedRun, Run, collect, make_record, read_table
from hyperiqa_nb.training import Recipe, Trainer, training_step

SOME = 2000 # Photographs that fit into memory


class MostMemory:
    "The most memory of this process that is not the system's copy of a file, beyond what it has at the start; GiB."
    def __init__(self): self.before, self.over, self.most = self.now(), threading.Event(), 0.

    @staticmethod
    def now():
        return int(Path('/proc/self/status').read_text().partition('RssAnon:')[2].split()[0]) / 2**20

    def follow(self):
        while not self.over.wait(.02): self.most = max(self.most, self.now() - self.before)

    def __enter__(self):
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def large_photographs(folder, count):
    "Photographs of KonIQ-10k's true size, 1024 x 768: crops of the demo's, each with other grain; and two score lists."
    rng = np.random.default_rng(0)
    sources = [np.asarray(photo.resize((1280, 960), Image.Resampling.BICUBIC), np.int16)
               for photo in photographs().values()]
    grain = rng.normal(0, 4, (1024, 1280, 1)).astype(np.int16)
    for n in range(count):
        top, left, down, right = rng.integers(0, [193, 257, 257, 257])
        crop = sources[n % len(sources)][top:top + 768, left:left + 1024] + grain[down:down + 768, right:right + 1024]
        Image.fromarray(crop.clip(0, 255).astype(np.uint8)).save(folder/f'{n}.jpg', quality=85)
    table = pd.DataFrame({'image': [f'{n}.jpg' for n in range(count)], 'mos': np.linspace(0, 100, count)})
    table.to_csv(folder/'all.csv', index=False)
    table[:SOME].to_csv(folder/'some.csv', index=False)


def trainer_on(images):
    "One crop of each photograph an epoch, as many steps as there are batches of eight."
    torch.manual_seed(0)
    some = ImageSet(images.names[:20], images.pixels[:20], images.mos[:20])
    trainer = Trainer(create_model('hyperiqa_lite0'), images, some,
                      Recipe(epochs=1, batch_size=8, crops_per_image=1, test_crops='center'))
    trainer.model.train()
    return trainer


def paces(folder, every=5) -> float: # Seconds of an epoch with the cache, over seconds with all in memory
    """One epoch each way, in turns batch by batch; the file of the cache is not in memory at the start.

    What is learned from a batch is the same on either side: the step is timed on every fifth one.
    """
    some = load_dataset(folder/'some.csv', score_min=0, score_max=100)
    sides = [load_images(some, 224, False, memory=memory, cache=folder/'cache') for memory in (10**12, 0)]
    data, = (folder/'cache').glob('*.pixels')
    with open(data) as file: os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    trainers, cutting, steps = [trainer_on(images) for images in sides], [0., 0.], []
    batches, order = [trainer.crops.epoch(1) for trainer in trainers], [0, 1]
    for n in range(len(trainers[0].crops)):
        crops = {}
        for side in order:
            start = perf_counter()
            crops[side], mos = next(batches[side])
            cut = perf_counter()
            cutting[side] += cut - start
            if n % every: continue
            training_step(trainers[side], crops[side], mos, trainers[side].optimizer)
            steps.append(perf_counter() - cut)
        assert torch.equal(crops[0], crops[1]), "the crops differ"
        order.reverse()
    learning = np.mean(steps) * len(trainers[0].crops)
    return (cutting[1] + learning) / (cutting[0] + learning)


def memory(count):
    "Photographs of KonIQ-10k's true size are checked, decoded and learned from in memory that does not grow with them."
    with tempfile.TemporaryDirectory(dir=os.environ.get('HYPERIQA_CACHE')) as name:
        folder, needed = Path(name), 3.5 * count / 1e3 # GB
        free = shutil.disk_usage(folder).free / 1e9
        assert free > needed, f"{folder.parent} has {free:.0f} GB free, {needed:.0f} are needed; or set HYPERIQA_CACHE"
        large_photographs(folder, count)
        with MostMemory() as checking: check_dataset(folder/'all.csv', progress=False)
        manifest = load_dataset(folder/'all.csv', score_min=0, score_max=100)
        with MostMemory() as decoding: found = load_images(manifest, 224, False, memory=0, cache=folder/'cache')
        trainer = trainer_on(found)
        steps, batches = min(200, len(trainer.crops)), trainer.crops.epoch(1)
        with MostMemory() as training:
            for _ in range(steps): training_step(trainer, *next(batches), trainer.optimizer)
        assert np.array_equal(found.pixels[7], load_image(manifest.path('7.jpg'), 224))
        kept = sum(file.stat().st_size for file in (folder/'cache').glob('*.pixels')) / 1e9
        most = [round(part.most, 2) for part in (checking, decoding, training)]
        assert max(most) < 3, f"{most} GiB beyond the model"
        del found, trainer, batches
        pace = paces(folder)
    assert count < SOME or pace <= 1.15, f"an epoch takes {pace:.2f} times as long with the cache"
    return (f"{count:,} photographs of 1024 x 768 pixels, {kept:.1f} GB in the cache. GiB of private memory beyond the "
            f"model: checking {most[0]:.2f}, decoding {most[1]:.2f}, {steps} steps of training {most[2]:.2f}. An epoch "
            f"of {min(count, SOME):,} with the cache takes {pace:.2f} times as long as with all in memory")


def bookkeeping(count):
    "Records of so many runs are collected into the tables, and runs and metrics read."
    metrics = pd.DataFrame([dict(split=split, test_crops='grid9', metric=metric, value=.775) for split in
                            ('train', 'val', 'test') for metric in ('srcc', 'plcc', 'krcc', 'rmse')])
    curves = pd.DataFrame(dict(epoch=range(1, 9), loss=9., lr_backbone=1e-4, val_srcc=.5, seconds=1.))
    tested = pd.DataFrame(dict(part='test', image=[f'{n}.jpg' for n in range(20)], prediction=50.))
    first = make_record(PlannedRun('v0', Run()), curves, tested, metrics, best_epoch=2, epochs_run=8, seconds=95.25)
    with tempfile.TemporaryDirectory() as name:
        waiting = Path(name)/'runs'/'finished'
        waiting.mkdir(parents=True)
        for n in range(count):
            about = dict(run_id=f'{n:012x}', variant=f'v{n % 100}', split_id=str(n // 100))
            (waiting/f"{about['run_id']}.json").write_text(json.dumps(first | {'runs': first['runs'] | about}))
        start, used = perf_counter(), process_time()
        collect(name)
        runs, figures = (read_table(name, table) for table in ('runs', 'metrics'))
        seconds, used = perf_counter() - start, process_time() - used
    assert (len(runs), len(figures)) == (count, count * len(metrics))
    assert runs.run_id.is_unique and set(figures.value) == {'0.775000'}
    return (f"{count:,} runs with {len(figures):,} figures collected and read in {seconds:.1f} s, {used:.1f} s of the "
            "processor")
