"""What the tests of checkpoints share: the files of checkpoints, without weights."""

import os

import pytest

from storage import checkpoints, run_state
from storage.run_state import RunState


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the files of checkpoints: write('run/model-1', …). The `checkpoint` file names the last. Changes to tmp_path.

    state: whether with their state, which has these values.
    """
    def files(*prefixes, state=False, **values):
        for prefix in prefixes:
            os.makedirs(os.path.dirname(prefix), exist_ok=True)
            for suffix in run_state.SUFFIXES:
                with open(prefix + suffix, 'wb') as file:
                    file.write(os.urandom(99))
            if state:
                run_state.write(prefix, RunState(step=checkpoints.checkpoint_step(prefix), **values))
        with open(os.path.join(os.path.dirname(prefix), 'checkpoint'), 'w') as file:
            file.write(f'model_checkpoint_path: "{os.path.basename(prefix)}"\n')
    monkeypatch.chdir(tmp_path)
    return files
