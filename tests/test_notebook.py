"""notebooks/fine_tune.ipynb, run from top to bottom as it stands, in a copy of the project; and as it is committed."""

import base64
import json
import os
import re
import shutil
import zipfile

import pytest

from conftest import ROOT
from optional import needs

NOTEBOOK = os.path.join(ROOT, 'notebooks', 'fine_tune.ipynb')


def cells(kind='code'):
    with open(NOTEBOOK, encoding='utf-8') as file:
        return [cell for cell in json.load(file)['cells'] if cell['cell_type'] == kind]


@pytest.fixture
def execute():
    """Runs cells of the notebook in a directory: execute(directory, count) -> the notebook with its outputs."""
    nbclient, nbformat = needs('nbclient'), needs('nbformat')
    needs('ipykernel')
    needs('matplotlib')

    def run(directory, count=None):
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if cell.cell_type == 'code'][:count]
        nbclient.NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(directory)}}).execute()
        return {cell.id: cell for cell in notebook.cells}
    return run


def printed(cell):
    return ''.join(output.text for output in cell.outputs if output.output_type == 'stream')


def test_it_runs_from_top_to_bottom(execute, tmp_path):
    for name in ('src', 'docs', *(name for name in os.listdir(ROOT) if name.endswith('.py') or name.startswith('requirements'))):
        os.symlink(os.path.join(ROOT, name), tmp_path / name)
    shutil.copytree(os.path.join(ROOT, 'models', 'tiny'), tmp_path / 'models' / 'tiny')
    (tmp_path / 'notebooks').mkdir()
    done = execute(tmp_path / 'notebooks')

    assert printed(done['install']).splitlines()[-1] == f'Ready in {tmp_path}'
    assert 'Device: CPU' in printed(done['device'])
    assert 'Alice' in printed(done['text'])
    assert 'memory of a training step' in printed(done['plan']) and ' fits' in printed(done['plan'])

    rows = [json.loads(line) for line in (tmp_path / 'checkpoint' / 'notebook' / 'metrics.jsonl').read_text().splitlines()]
    losses = [row['loss'] for row in rows if 'loss' in row]
    assert len(losses) == 100 and sum(losses[-10:]) < 0.8 * sum(losses[:10])
    held_out = [row['val_loss'] for row in rows if 'val_loss' in row]
    assert held_out[-1] < held_out[0]
    [picture] = [output.data['image/png'] for output in done['train'].outputs if output.output_type == 'display_data']
    assert base64.b64decode(picture).startswith(b'\x89PNG')
    assert '[100 | ' in printed(done['train'])

    assert printed(done['sample']).count('======== SAMPLE') == 3
    with zipfile.ZipFile(tmp_path / 'models' / 'notebook.zip') as archive:
        assert {'notebook/hparams.json', 'notebook/vocab.bpe', 'notebook/model.ckpt.index'} <= set(archive.namelist())


def test_without_the_project_it_asks_for_the_address(execute, tmp_path):
    nbclient = needs('nbclient')
    with pytest.raises(nbclient.exceptions.CellExecutionError, match='write the address of its repository into REPOSITORY'):
        execute(tmp_path, 1)


def test_it_is_committed_without_outputs_and_with_text_between_the_cells():
    for cell in cells():
        assert cell['outputs'] == [] and cell['execution_count'] is None, cell['id']
    with open(NOTEBOOK, encoding='utf-8') as file:
        kinds = [cell['cell_type'] for cell in json.load(file)['cells']]
    assert not re.search('code code', ' '.join(kinds))
    assert max(len(cell['source']) for cell in cells()) <= 45
