"""storage/run_state.py: the state of a run is read as it was written, or refused."""

import json

import pytest

from command.errors import UserError
from storage import run_state
from storage.run_state import RunState

STATE = RunState(step=12, tokens=99, average=[1.5, 2.0], generators={'data': {'state': 2 ** 70}}, best_loss=3.25, warned=True)


@pytest.fixture
def prefix(tmp_path):
    for suffix in ('.index', '.data-00000-of-00001'):       # without .meta
        (tmp_path / f'model-12{suffix}').write_bytes(b'content')
    run_state.write(str(tmp_path / 'model-12'), STATE)
    return str(tmp_path / 'model-12')


def test_a_state_is_read_as_it_was_written(prefix):
    assert run_state.read(prefix) == STATE
    assert run_state.read(f'{prefix}0') is None


def test_a_new_run():
    assert vars(RunState()) == {'step': 0, 'tokens': 0, 'average': [0.0, 0.0], 'generators': {}, 'validated': -1, 'sampled': -1,
                                'best_loss': None, 'best_step': -1, 'not_better': 0, 'warned': False, 'first_loss': None,
                                'far_off': 0, 'loss_scale': 32768, 'good_steps': 0, 'skipped': 0}


def test_a_changed_number_is_damage(prefix, tmp_path):
    path = tmp_path / 'model-12.json'
    path.write_text(path.read_text().replace('"step": 12', '"step": 13'))
    with pytest.raises(UserError, match='model-12.json is damaged$'):
        run_state.read(prefix)


@pytest.mark.parametrize('content', ['', '{', '[]', '3', '{}', '{"sha256": "", "state": {}}', 
                                     '{"sha256": "", "state": {"no": 1}}',
                                     '{"sha256": "", "state": {}, "files": 3}'])
def test_other_content_is_damage(prefix, tmp_path, content):
    (tmp_path / 'model-12.json').write_text(content)
    with pytest.raises(UserError, match='model-12.json is damaged$'):
        run_state.read(prefix)


def test_missing_and_changed_files_are_named(prefix, tmp_path):
    (tmp_path / 'model-12.index').write_bytes(b'other')
    with pytest.raises(UserError, match='model-12.index is damaged: its checksum does not match'):
        run_state.read(prefix)
    (tmp_path / 'model-12.index').unlink()
    with pytest.raises(UserError, match='model-12.index is missing'):
        run_state.read(prefix)


def test_the_files_are_listed(prefix):
    with open(f'{prefix}.json', encoding='utf-8') as file:
        assert json.load(file)['files'].keys() == {'.index', '.data-00000-of-00001'}
