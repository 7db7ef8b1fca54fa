"""storage/run_directory.py: what --overwrite and a failed start remove, and what they leave."""

from storage import run_directory


def test_clearing_removes_checkpoints_and_records_only(tmp_path):
    for name in ('checkpoint', 'counter', 'settings.json', 'metrics.jsonl', 'loss.png', 'model-1.index', 'model-1.json',
                 'events.out.tfevents.1.host'):
        (tmp_path / name).touch()
    for name in ('lock', 'hparams.json', 'dataset.npz', 'model.py', 'notes.txt'):
        (tmp_path / name).touch()
    run_directory.clear(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {'lock', 'hparams.json', 'dataset.npz', 'model.py', 'notes.txt'}
    run_directory.clear(str(tmp_path))      # nothing is left to remove


def test_a_removed_directory_takes_empty_parents_with_it(tmp_path):
    (tmp_path / 'kept').touch()
    (tmp_path / 'checkpoint/group/run').mkdir(parents=True)
    (tmp_path / 'checkpoint/group/run/lock').touch()
    run_directory.remove(str(tmp_path / 'checkpoint/group/run'))
    assert [path.name for path in tmp_path.iterdir()] == ['kept']
    (tmp_path / 'checkpoint/other').mkdir(parents=True)
    run_directory.remove(str(tmp_path / 'checkpoint/run'))      # does not exist
    assert (tmp_path / 'checkpoint/other').is_dir()
