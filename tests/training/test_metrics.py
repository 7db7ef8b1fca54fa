"""What a run reports: lines, rows of metrics.jsonl, scalars; what is kept when a run continues."""

import json
import re
import sys
import types

import pytest

from command.errors import UserError
from training.metrics import Average, Log, read_metrics

NUMBERS = {'loss': 2.346, 'learning_rate': 0.00012345, 'gradient_norm': 1.239, 'tokens_per_second': 99.6, 'epoch': 0.12349}


def state(step=0, validated=0):
    return types.SimpleNamespace(step=step, validated=validated, average=[0.0, 0.0])


def test_the_average_by_hand():
    kept = [0.0, 0.0]
    average = Average(kept)
    assert [average.add(4.0), average.add(1.0)] == [4, pytest.approx((4 * 0.99 + 1) / 1.99)]
    assert kept == [pytest.approx(4.96), pytest.approx(1.99)]
    assert Average(kept).add(3.0) == pytest.approx((4.96 * 0.99 + 3) / (1.99 * 0.99 + 1))
    assert Average().add(3.0) == 3


def test_damaged_rows_are_left_out(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    assert read_metrics(str(path)) == []
    path.write_bytes(b'{"step": 1, "loss": 2}\n[1]\n{"loss": 3}\n{"step": 2, "lo\xff\n7\n{"step": 3}\n{"step": 4, ')
    assert read_metrics(str(path)) == [{'step': 1, 'loss': 2}, {'step': 3}]


def test_lines_rows_and_scalars(tf, tmp_path, capsys):
    log = Log(str(tmp_path), (found := state()), last_step=5)       # no terminal: no bar
    log.train(1, **NUMBERS)
    log.validation(1, 3.456)
    rows = (tmp_path / 'metrics.jsonl').read_text()      # written while the run goes on
    log.print('text')
    log.close()
    first, second, third = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r'\[1 \| \d{1,2}\.\d\d\] loss=2\.35 avg=2\.35 tokens/s=100 epoch=0\.123 lr=0\.000123 norm=1\.24', first)
    assert re.fullmatch(r'\[1 \| \d{1,2}\.\d\d\] validation loss = 3\.46', second)
    assert third == 'text'
    assert [json.loads(row) for row in rows.splitlines()] == [{'step': 1, **NUMBERS}, {'step': 1, 'val_loss': 3.456}]
    assert found.average == [2.346, 1]
    [events] = tmp_path.glob('events.out.tfevents.*')
    records = list(tf.train.summary_iterator(str(events)))
    starts = [record.step for record in records if record.HasField('session_log')]
    assert starts == [1]
    scalars = {value.tag: (record.step, value.simple_value) for record in records for value in record.summary.value}
    assert scalars == {tag: (1, pytest.approx(value)) for tag, value in {**NUMBERS, 'val_loss': 3.456}.items()}


def test_rows_of_later_steps_are_dropped(tf, tmp_path):
    rows = [{'step': step, name: 1.0} for step in (1, 2, 3) for name in ('loss', 'val_loss')]
    path = tmp_path / 'metrics.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    Log(str(tmp_path), state(step=2, validated=1)).close()
    assert read_metrics(str(path)) == [rows[0], rows[1], rows[2]]


def test_a_bar_on_a_terminal(tf, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    (tmp_path / 'other').mkdir()
    log = Log(str(tmp_path), state(step=3), last_step=5)
    log.train(4, **NUMBERS)
    assert (log._bar.n, log._bar.total) == (4, 5)
    log.close()
    assert log._bar.disable
    assert 'loss=2.35' in capsys.readouterr().out
    log = Log(str(tmp_path / 'other'), state(), last_step=0)        # without an end
    assert log._bar is None
    log.close()


def test_a_directory_that_cannot_be_written(tf, tmp_path):
    with pytest.raises(UserError, match='cannot write .*nowhere'):
        Log(str(tmp_path / 'nowhere'), state())
