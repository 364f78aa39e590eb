"The rules of the house that no page can keep alone, each as a function of a copy of the project."
import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

from project import PROJECT, Failed, call, cells, complain, contents

PARTS = ['core', 'data', 'models', 'training', 'runs', 'evidence', 'use'] # In the order in which data flows
NAMED = re.compile(rf"(?:hyperiqa_nb|^\.)\.({'|'.join(PARTS)})\b") # A module by its name, as importlib takes it


# Imports go down only

def absolute(node, here):
    "The module that `from ... import` names, in the module `here`, a tuple of names."
    if not node.level: return node.module
    above = '.'.join(here[:-node.level])
    return f'{above}.{node.module}' if node.module else above


def imports(path, package):
    "(line, dotted name) of every import of a module: on top, in functions, and by name at run time."
    tree, here = ast.parse(path.read_text(encoding='utf-8')), (package.name, *path.relative_to(package).parts)
    docs = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(getattr(node, 'body', None), list)
            and node.body and isinstance(node.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f'{absolute(node, here)}.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            names = [f'{package.name}.{part}' for part in NAMED.findall(node.value)]
        else: continue
        yield from ((node.lineno, name) for name in names if name.split('.')[0] == package.name)


def imports_go_down(copy):
    "No module imports from a part above its own."
    package, problems = copy/'hyperiqa_nb', []
    for path in sorted(package.glob('*/*.py')):
        part = path.parent.name
        for line, name in imports(path, package):
            other = name.split('.')[1] if '.' in name else ''
            if other in PARTS and PARTS.index(other) > PARTS.index(part):
                problems.append(f"{path.relative_to(copy)}:{line}: {part} imports {name}, which is above it")
    complain(problems)


def pages_mirror_modules(copy):
    "nbs/PART/NN_name.ipynb is hyperiqa_nb/PART/name.py, and nbs/PART/00_PART.ipynb the part's face."
    folders = [sorted({path.parent.name for path in (copy/top).glob('*/*.' + ending)}) for top, ending in
               [('nbs', 'ipynb'), ('hyperiqa_nb', 'py')]]
    problems = [f"{folder}: a folder of pages or modules that is not in PARTS of .ci/house.py" for folder in
                (set(folders[0]) - {'checks', 'experiments', 'guides'} | set(folders[1])) - set(PARTS)]
    for part in PARTS:
        pages, numbers = {}, set()
        for path in sorted((copy/'nbs'/part).glob('*.ipynb')):
            number, _, name = path.stem.partition('_')
            exported = re.findall(r'^#\| default_exp (\S+)', '\n'.join(cell['source'] for cell in cells(path)), re.M)
            module = '__init__' if path.stem == f'00_{part}' else name
            if exported != [f'{part}.{module}']: problems.append(f"{path.relative_to(copy)} exports {exported}")
            if not number.isdigit() or number in numbers: problems.append(f"{path.relative_to(copy)}: number {number}")
            numbers.add(number)
            pages[module] = path
        modules = {path.stem for path in (copy/'hyperiqa_nb'/part).glob('*.py')}
        problems += [f"{part}.{name} has no page" for name in sorted(modules - set(pages))]
        problems += [f"{pages[name].relative_to(copy)} has no module" for name in sorted(set(pages) - modules)]
    complain(problems)


# What is installed

IMPORT_ALL = """
import pkgutil, sys
from importlib import import_module
from pathlib import Path
import hyperiqa_nb
from hyperiqa_nb.models import load_model

folder = Path(hyperiqa_nb.__file__).parent
assert folder == Path(sys.argv[1])/'hyperiqa_nb', folder
names = [module.name for module in pkgutil.walk_packages([str(folder)], 'hyperiqa_nb.')]
for name in names: import_module(name)
load_model()
print(*names)
"""


def wheel_is_whole(copy):
    "A wheel of what git holds has all modules and the weights: nothing that git ignores is missing in it."
    with tempfile.TemporaryDirectory() as folder:
        source, wheels, installed = (Path(folder)/name for name in ('source', 'wheels', 'installed'))
        if (PROJECT/'.git').exists():
            archive = subprocess.run(['git', 'archive', 'HEAD'], cwd=PROJECT, capture_output=True, check=True).stdout
            source.mkdir()
            subprocess.run(['tar', '-x'], cwd=source, input=archive, check=True)
        else: shutil.copytree(copy, source)
        pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
        call(copy, *pip, 'wheel', '--no-deps', '--no-build-isolation', '--no-index', '-w', str(wheels), str(source))
        call(copy, *pip, 'install', '--no-deps', '--no-index', '--target', str(installed), *map(str, wheels.iterdir()))
        out = call(copy, sys.executable, '-c', IMPORT_ALL, str(installed), library=installed, folder=folder)
        there, expected = out.split(), [f'hyperiqa_nb.{path.parent.name}.{path.stem}' for path in
                                        sorted((source/'hyperiqa_nb').glob('*/[!_]*.py'))]
        complain([f"the wheel lacks {name}" for name in expected if name not in there])
        if not {f'hyperiqa_nb.{part}' for part in PARTS} <= set(there): raise Failed(f"parts are missing: {there}")


# Links

LINK = re.compile(r'\]\(\s*<?([^)\s>]+)|(?:href|src)="([^"]+)"')
CODE = re.compile(r'^```.*?^```|`[^`\n]*`', re.M | re.S)


def texts(path):
    "What a reader sees rendered: a Markdown file, or a notebook's Markdown cells and outputs."
    if path.suffix == '.md': return [path.read_text(encoding='utf-8')]
    found = []
    for cell in cells(path):
        if cell['cell_type'] == 'markdown': found.append(cell['source'])
        for output in cell.get('outputs', []):
            found += [''.join(output.get('data', {}).get(kind, '')) for kind in ('text/markdown', 'text/html')]
    return found


def links_lead_somewhere(copy):
    """Every relative link is that of a file of the project, seen from the folder of the page that has it.

    That is how the web and JupyterLab both read it; JupyterLab opens no folders and shows no hidden files.
    """
    problems = []
    for path in sorted([*copy.glob('*.md'), *copy.glob('reports/**/*.md'), *copy.rglob('*.ipynb')]):
        if any(name.startswith('.') for name in path.relative_to(copy).parts): continue
        for link in {a or b for text in texts(path) for a, b in LINK.findall(CODE.sub('', text))}:
            if re.match(r'[a-z]+:|#', link): continue
            target = (path.parent/unquote(link.split('#')[0])).resolve()
            inside = target.is_file() and target.is_relative_to(copy.resolve())
            if not inside or '/.' in str(target.relative_to(copy.resolve())):
                problems.append(f"{path.relative_to(copy)}: {link}")
    complain(problems)


# Help

ASK = """
import sys
from importlib import import_module
name, place = sys.argv[1].split('=')
module, function = place.split(':')
sys.argv = [name, '--help']
try: getattr(import_module(module), function)()
except SystemExit: pass
print(len(sys.modules), *sorted({'torch', 'pandas', 'numpy', 'scipy', 'matplotlib', 'timm', 'PIL'} & set(sys.modules)))
"""
AT_MOST = 400 # Modules; torch alone loads more than a thousand


def commands(copy):
    "The names of all commands, each with what it calls."
    settings = configparser.ConfigParser(delimiters=['='], interpolation=None)
    settings.read(copy/'settings.ini', encoding='utf-8')
    return dict(line.split('=') for line in settings['DEFAULT']['console_scripts'].split())


def help_is_light(copy):
    "`--help` of every command loads no heavy package."
    problems = []
    for command, target in commands(copy).items():
        *shown, last = call(copy, sys.executable, '-c', ASK, f'{command}={target}').strip().splitlines()
        count, *heavy = last.split()
        if heavy or int(count) > AT_MOST: problems.append(f"{command}: {count} modules, {', '.join(heavy)}")
        if not any(line.startswith('usage:') for line in shown): problems.append(f"{command}: no help")
    complain(problems)


# What pages keep

def no_state_of_widgets(copy):
    "No page keeps thousands of lines of a progress bar, which nbdev_clean leaves there."
    complain([f"{path.relative_to(copy)}: state of widgets in its metadata" for path in copy.glob('nbs/**/*.ipynb')
              if 'widgets' in json.loads(path.read_text(encoding='utf-8'))['metadata']])


# Several processes

TOGETHER = ['hyperiqa_train', 'hyperiqa_score'] # What processes share their work
ARGUMENTS = {'hyperiqa_run': ['reports/plans/tiny.csv'], 'hyperiqa_report': ['reports/plans/tiny.csv'],
             'hyperiqa_prepare': ['demo'], 'hyperiqa_compare': ['demo', 'mine.csv'], 'hyperiqa_export': ['model.onnx']}


def one_process_each(copy):
    "A command that is for one process says so where a launcher has started two, and does nothing."
    before, problems = contents(copy), []
    for command in commands(copy):
        if command in TOGETHER: continue
        try: said = call(copy, 'env', 'WORLD_SIZE=2', 'RANK=0', command, *ARGUMENTS.get(command, []))
        except Failed as error: said = str(error)
        if f'{command} is for one process' not in said: problems.append(f"{command} by two processes: {said}")
    if contents(copy) != before: problems.append("something was written")
    complain(problems)


# One of each of the five

PLAN = """variant, dataset,  split_scheme, model,  fusion,   loss,  epochs, crops_per_image, batch_size, test_crops
mine,    chequers, random,       pooled, last_two, huber, 1,      1,               8,          center
"""
NAMES = {'hyperiqa_train': ['pooled', 'last_two', 'huber', 'chequers'], 'hyperiqa_prepare': ['chequers']}


def five_new_pages(copy):
    "A fusion, a dataset, a loss, a model and a report, each a new page, go from a plan to a report as they are."
    shutil.copytree(PROJECT/'.ci/extending', copy/'nbs', dirs_exist_ok=True)
    for path in (copy/'nbs/experiments').glob('*.ipynb'): # The other reports are the business of the tiny plan
        if path.stem not in ('train', 'bars'): path.unlink()
    (copy/'reports/plans/extended.csv').write_text(PLAN)
    before = contents(copy)
    call(copy, 'nbdev_export')
    after = contents(copy) | {'hyperiqa_nb/_modidx.py': before['hyperiqa_nb/_modidx.py']} # nbdev's index of names
    complain([f"nbdev_export changes {name}" for name in before if before[name] != after[name]])
    for command, names in NAMES.items():
        shown = call(copy, command, '--help')
        complain([f"{command} --help does not name {name}" for name in names if name not in shown])
    listed = call(copy, sys.executable, '-c', 'from hyperiqa_nb.models import list_models; print(*list_models())')
    if 'pooled' not in listed.split(): raise Failed(f"list_models() has {listed}")
    call(copy, 'hyperiqa_run', 'reports/plans/extended.csv', '--in_process') # As a notebook: the tiny plan
    call(copy, 'hyperiqa_report', 'reports/plans/extended.csv')
    pages = sorted(path.stem for path in (copy/'reports/extended').glob('*.html'))
    if 'bars' not in pages: raise Failed(f"hyperiqa_report wrote {', '.join(pages)}, and not the new page bars")
