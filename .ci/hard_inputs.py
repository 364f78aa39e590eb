"What others give: odd images, score lists and checkpoints are refused by name with a reason, or read right."
import io
import json
import os
import random
import resource
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hyperiqa_nb.core import InputError
from hyperiqa_nb.data import ImageSet, inspect_image, load_dataset, load_image, load_images
from hyperiqa_nb.models import create_model, load_model, save_checkpoint
from hyperiqa_nb.training import predict


def examples(count):
    "Hypothesis with so many examples, the same ones every time."
    return settings(max_examples=count, deadline=None, database=None, derandomize=True,
                    suppress_health_check=list(HealthCheck))


def printable(error): return all(c.isprintable() or c == '\n' for c in str(error))


# Images

def photograph(rng, side=96):
    "A small picture with something in it."
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8))
    return coarse.resize((side + 32, side), Image.Resampling.BICUBIC)


def chunk(kind, data):
    import struct
    import zlib
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def huge_png(width, height):
    "A header that promises more than there is."
    import struct
    import zlib
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b''))


def damaged(kind, rng):
    "(ending, bytes) of an odd image."
    image, ending = photograph(rng), rng.choice(['jpg', 'png', 'bmp', 'webp', 'tiff', 'gif'])
    if kind == 'mode': image = image.convert(rng.choice(['1', 'L', 'P', 'LA', 'RGBA', 'CMYK', 'I', 'F', 'I;16']))
    options = {}
    if kind == 'exif':
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(-3, 99)) % 65536
        options['exif'] = exif.tobytes() if rng.random() < .5 else b'Exif\0\0' + rng.bytes(40)
    if kind == 'profile': options['icc_profile'] = rng.bytes(int(rng.integers(1, 400)))
    if kind == 'huge': return 'png', huge_png(*(int(n) for n in rng.integers(1, 2**31 - 1, 2)))
    if kind == 'bomb': return 'png', huge_png(20_000, int(rng.integers(1, 20_000)))
    if kind == 'noise': return ending, rng.bytes(int(rng.integers(0, 5000)))
    file = io.BytesIO()
    if kind in ('mode', 'exif', 'profile'): ending = rng.choice(['png', 'tiff', 'jpg', 'webp'])
    try: image.save(file, {'jpg': 'jpeg'}.get(ending, ending), **options)
    except Exception: # Pillow does not write every mode, nor notes that make no sense
        ending, file = 'tiff', io.BytesIO()
        image.save(file, 'tiff')
    data = bytearray(file.getvalue())
    if kind == 'flips':
        for place in rng.integers(0, len(data), int(rng.integers(1, 60))): data[place] ^= 1 << int(rng.integers(8))
    if kind == 'header':
        for place in rng.integers(0, min(len(data), 60), 4): data[place] = int(rng.integers(256))
    if kind == 'cut': data = data[:int(rng.integers(0, len(data)))]
    if kind == 'zeros':
        start = int(rng.integers(0, len(data)))
        data[start:] = bytes(len(data) - start)
    if kind == 'ending': ending = rng.choice(['jpg', 'png', 'txt', 'gif', 'bmp'])
    return ending, bytes(data)


DAMAGES = ['flips', 'header', 'cut', 'zeros', 'ending', 'mode', 'exif', 'profile', 'huge', 'bomb', 'noise']


def images(count):
    "Odd images through checking, training's reader and scoring: named with a reason, or a finite score."
    model, seen = load_model(), {'scored': 0, 'refused': 0}

    @examples(count)
    @given(st.sampled_from(DAMAGES), st.integers(0, 2**32 - 1))
    def check(kind, seed):
        with tempfile.TemporaryDirectory() as folder:
            ending, data = damaged(kind, np.random.default_rng(seed))
            path = Path(folder)/f'odd.{ending}'
            path.write_bytes(data)
            problem = inspect_image(path)['problem']
            try: pixels = load_image(path, 64, most=96)
            except InputError as error:
                assert str(path) in str(error) and printable(error)
                assert problem, f"checking finds nothing in {kind} {seed}, and reading does"
                seen['refused'] += 1
                return
            assert not problem, problem
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and min(pixels.shape[:2]) >= 64
            score = predict(model, ImageSet(['odd'], [pixels], np.zeros(1, np.float32)), 'center', size=64)
            assert np.isfinite(score).all()
            seen['scored'] += 1
    check()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert most < 4, f"{most:.1f} GiB of memory"
    return f"{sum(seen.values()):,} images: {seen['scored']:,} scored, {seen['refused']:,} refused by name"


# Score lists

NAMES = ['a.png', 'b.png', 'Café.png', 'sub/d.png', 'e.png', 'f.png']
REFUSED = {'nan': 'a.png,NaN', 'infinite': 'a.png,inf', 'text': 'a.png,good', 'negative': 'a.png,-1',
           'out of range': 'a.png,101', 'huge': 'a.png,1e400', 'comma': 'a.png,"61,5"', 'empty': 'a.png,',
           'no name': ',50', 'twice': 'b.png,50', 'other case twice': 'B.PNG,50', 'absent': 'none.png,50',
           'escape': 'a\x1b[2J.png,50', 'zero': 'a\0.png,50', 'long': 'x' * 5000 + '.png,50', 'slash': 'sub\\d.png,50',
           'device': '/dev/zero,50', 'folder': 'sub,50', 'pipe': 'pipe.png,50', 'loop': 'loop.png,50'}
TAKEN = {'plain': 'a.png,50', 'quoted': '"a.png","50"', 'spaces': 'a.png, 50', 'case': 'A.PNG,50',
         'exponent': 'a.png,5e1'}
FORMS = {'utf-8': True, 'utf-8-sig': True, 'crlf': True, 'nfd': True, 'utf-16': False, 'latin-1': False,
         'semicolons': False, 'tabs': False, 'no header': False, 'no column': False, 'cut': None, 'flips': None}


def list_folder(folder):
    "A dataset with small photographs under names of all sorts."
    (folder/'sub').mkdir()
    for n, name in enumerate(NAMES): photograph(np.random.default_rng(n)).save(folder/name)
    os.mkfifo(folder/'pipe.png')
    (folder/'loop.png').symlink_to('loop.png')


def list_bytes(rows, form, rng):
    "A score list in one form."
    import unicodedata
    text = '\n'.join(['image,mos', *rows]) + '\n'
    if form == 'crlf': text = text.replace('\n', '\r\n')
    if form == 'nfd': text = unicodedata.normalize('NFD', text)
    if form in ('semicolons', 'tabs'): text = text.replace(',', ';' if form == 'semicolons' else '\t')
    if form == 'no header': text = text.partition('\n')[2]
    if form == 'no column': text = text.replace('mos', 'score', 1)
    data = bytearray(text.encode(form if form in ('utf-8-sig', 'utf-16', 'latin-1') else 'utf-8'))
    if form == 'cut': data = data[:int(rng.integers(0, len(data)))]
    if form == 'flips': data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def lists(count):
    "Odd score lists through reading, checking and decoding: refused with a reason, or read right."
    seen = {'read': 0, 'refused': 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        list_folder(folder)

        @examples(count)
        @given(st.sampled_from([*REFUSED, *TAKEN]), st.sampled_from([*FORMS]), st.integers(0, 2**32 - 1))
        def check(row, form, seed):
            right = [f'{image},{20 + 10 * n}' for n, image in enumerate(NAMES[1:])]
            rows = [(REFUSED | TAKEN)[row], *right]
            (folder/'scores.csv').write_bytes(list_bytes(rows, form, np.random.default_rng(seed)))
            try:
                manifest = load_dataset(folder/'scores.csv', score_min=0, score_max=100)
                found = load_images(manifest, 64, progress=False)
            except InputError as error:
                assert printable(error) and str(error).strip()
                assert row in REFUSED or not FORMS[form], f"{row} in {form} is refused: {error}"
                seen['refused'] += 1
                return
            assert FORMS[form] is not False, f"{form} was read"
            assert row in TAKEN or FORMS[form] is None, f"{row} in {form} was read"
            assert np.isfinite(found.mos).all() and found.mos.min() >= 0 and found.mos.max() <= 100
            if FORMS[form]: assert found.mos.tolist() == [50, 20, 30, 40, 50, 60]
            seen['read'] += 1
        check()
    return f"{sum(seen.values()):,} score lists: {seen['read']:,} read, {seen['refused']:,} refused with a reason"


# Checkpoints

ODD = [None, True, -1, 0, 1e308, float('nan'), float('inf'), 10**30, '', 'x' * 3000, '\x1b[31m', [], [1, 2], {},
       {'a': 1}, [[[]]], '../..', 'hf-hub:a/b', [0, 100], [100, 0]]
PLACES = [('config', name) for name in ('model', 'backbone', 'fusion', 'hyper_in_channels', 'fusion_widths', 'dropout',
                                        'depth', 'layers', 'img_size', 'pretrained', 'checkpoint_path', 'out_indices')]
PLACES += [('facts', name) for name in ('score_shift', 'score_scale', 'score_range', 'lower_better', 'photo_side',
                                        'protocol', 'test_metrics', 'dataset', 'source', 'interval')]
PLACES += [('protocol', name) for name in ('test_crops', 'crop_size', 'resize')]
PLACES += [('', name) for name in ('config', 'facts', 'mean', 'std')]
GIANTS = [{'backbone': 'vit_giant_patch14_dinov2'}, {'backbone': 'eva02_enormous_patch14_clip_224'},
          {'backbone': 'vit_small_patch16_224', 'depth': 4096}, {'backbone': 'hf-hub:someone/model'}]


def odd_record(model, place, value):
    "The header of a checkpoint with one odd value."
    part, name = place
    record = {'config': dict(model.config), 'mean': list(model.mean), 'std': list(model.std),
              'facts': {'score_shift': 50., 'score_scale': 20., 'score_range': [0, 100], 'protocol': {}}}
    {'': record, 'protocol': record['facts']['protocol']}.get(part, record.get(part))[name] = value
    return record


def checkpoints(count):
    "Odd checkpoints: refused with a reason, or a model that gives finite scores on a scale that makes sense."
    from safetensors.torch import save_file
    torch.manual_seed(0)
    model, seen, slowest = create_model('hyperiqa_lite0', backbone='resnet10t'), {'loaded': 0, 'refused': 0}, 0.
    places = [(place, value) for place in PLACES for value in ODD]
    places += [(('', 'config'), model.config | giant) for giant in GIANTS]
    with tempfile.TemporaryDirectory() as name:
        path, tensors = Path(name)/'odd.safetensors', {k: v.contiguous() for k, v in model.state_dict().items()}
        for place, value in random.Random(0).sample(places, min(count, len(places))):
            save_file(tensors, path, {'hyperiqa_nb': json.dumps(odd_record(model, place, value))})
            start = time.perf_counter()
            try: loaded = load_model(path)
            except InputError as error:
                assert printable(error), (place, value)
                seen['refused'] += 1
            else:
                facts = loaded.facts
                assert np.isfinite([facts.get('score_shift', 0.), facts.get('score_scale', 1.)]).all(), (place, value)
                assert facts.get('score_range') != [100, 0]
                seen['loaded'] += 1
            slowest = max(slowest, time.perf_counter() - start)
        seen['refused'] += damaged_files(Path(name), model, count // 2)
    return (f"{sum(seen.values()):,} checkpoints: {seen['loaded']:,} loaded, {seen['refused']:,} refused with a "
            f"reason; the slowest took {slowest:.1f} s")


class Surprise:
    "A pickle that would run something."
    def __reduce__(self): return os.mkdir, ('ran',)


def damaged_files(folder, model, count) -> int: # Refused
    "Files that are no checkpoint, or only half of one."
    good, refused = save_checkpoint(model, folder/'good.pkl').read_bytes(), 0
    odd = {'code': {'a': Surprise()}, 'numbers': {1: torch.zeros(1)}, 'list': [torch.zeros(2)],
           'endless': {'a': torch.zeros(1).expand(10**7, 10**7)}, 'sparse': {'a': torch.eye(3).to_sparse()},
           'escape': {'a\x1b[2J': torch.zeros(1)}, 'complex': {'a': torch.zeros(2, dtype=torch.complex64)}}
    for name, state in odd.items(): torch.save(state, folder/f'{name}.pth')
    with zipfile.ZipFile(folder/'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as packed:
        packed.writestr('archive/data.pkl', bytes(200_000_000))
    for n in range(count):
        rng, data = np.random.default_rng(n), bytearray(good)
        for place in rng.integers(0, 20_000, 8): data[place] = int(rng.integers(256))
        (folder/f'flips{n}.pth').write_bytes(data[:int(rng.integers(len(data)))] if n % 2 else data)
    for path in sorted(folder.glob('*.pth')):
        try: load_model(path)
        except InputError as error:
            assert printable(error), path.name
            refused += 1
        else: raise AssertionError(f"{path.name} was loaded")
    assert not (folder/'ran').exists() and not Path('ran').exists(), "code of a pickle ran"
    return refused
