"""`make check-pyiqa`: the adapter in pyiqa itself, in an environment of its own that is deleted afterwards.

The environment sees this project's packages, torch among them, and gets pyiqa without its own requirements: most of
those serve metrics that are not asked for here. It needs the package registry, so it is no part of `make test`.
"""
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ['pyiqa', 'opencv-python-headless']

CHECK = """
from pathlib import Path
import sys
import pyiqa
import torch
from PIL import Image
from skimage import data
from hyperiqa_nb.use import load_scorer, register_in_pyiqa

folder, score = Path(sys.argv[1]), load_scorer(device='cpu')
name = register_in_pyiqa()
assert name in pyiqa.list_models('NR')
metric = pyiqa.create_metric(name, device='cpu')
assert (metric.lower_better, metric.score_range) == (False, '0, 100'), metric.score_range
Image.fromarray(data.coffee()).save(folder/'coffee.png')
Image.fromarray(data.camera()).save(folder/'camera.png')
found = {file: (metric(str(folder/file)).item(), score(folder/file)) for file in ('coffee.png', 'camera.png')}
assert all(abs(theirs - ours) < .1 for theirs, ours in found.values()), found
x = torch.from_numpy(data.coffee()).permute(2, 0, 1)[None] / 255
batch = torch.cat([x, x.flip(3), x * .5])
assert metric(batch).shape == (3, 1) and abs(metric(batch)[0].item() - found['coffee.png'][0]) < 1e-3
loss = pyiqa.create_metric(name, as_loss=True, device='cpu')
dark = (x[:, :, :224, :224] * .5).requires_grad_()
loss(dark).backward()
assert dark.grad.abs().max() > 0
print(f'pyiqa {pyiqa.__version__}:', {file: [round(v, 2) for v in pair] for file, pair in found.items()})
"""


def main():
    with tempfile.TemporaryDirectory(prefix='hyperiqa_nb-pyiqa-') as folder:
        venv.create(Path(folder)/'env', with_pip=True)
        python = Path(folder)/'env'/'bin'/'python'
        here = Path(subprocess.check_output([python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'],
                                            text=True).strip())
        (here/'project.pth').write_text(f"{sysconfig.get_path('purelib')}\n{PROJECT}\n")
        subprocess.run([python, '-m', 'pip', 'install', '-q', '--disable-pip-version-check', '--no-deps', *PACKAGES],
                       check=True)
        subprocess.run([python, '-c', CHECK, folder], check=True, cwd=folder)
    print('1 passed, 0 failed')


if __name__ == '__main__': sys.exit(main())
