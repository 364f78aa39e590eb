"""README.md from nbs/index.ipynb, run by `make readme`.

The notebook's links start from its own folder, as JupyterLab and the web read them; README.md lies one folder higher.
"""
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

PROJECT = Path(__file__).resolve().parent.parent
LINK = re.compile(r'(\]\()(?!#|/|[a-z]+:)([^)\s]+)')


def from_top(match):
    "A link that starts from nbs/, as one that starts from the top."
    start, target = match.groups()
    return start + (target[3:] if target.startswith('../') else f'nbs/{target}')


def rewritten(notebook):
    "The notebook with the links of its Markdown, written or computed, as README.md needs them."
    for cell in notebook.cells:
        if cell.cell_type == 'markdown': cell.source = LINK.sub(from_top, cell.source)
        for output in cell.get('outputs', []):
            data = output.get('data', {})
            if 'text/markdown' in data: data['text/markdown'] = LINK.sub(from_top, data['text/markdown'])
    return notebook


def main():
    config = Config()
    config.RegexRemovePreprocessor.patterns = [r'^#\|\s*hide']
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = ['hide_input']
    notebook = rewritten(nbformat.read(PROJECT/'nbs/index.ipynb', as_version=4))
    resources = {'unique_key': 'README', 'output_files_dir': 'nbs/images'}
    text, resources = MarkdownExporter(config=config).from_notebook_node(notebook, resources)
    # A picture's caption says what it shows
    text = re.sub(r'\s*!\[png\]\(([^)]*)\)\s*\*([^*\n]+)\*', r'\n\n![](\1)\n\n*\2*', text)
    for old in (PROJECT/'nbs/images').glob('README_*'): old.unlink()
    for name, data in resources['outputs'].items(): (PROJECT/name).write_bytes(data)
    (PROJECT/'README.md').write_text(re.sub(r'\n{3,}', '\n\n', text).strip() + '\n', encoding='utf-8')


if __name__ == '__main__': main()
