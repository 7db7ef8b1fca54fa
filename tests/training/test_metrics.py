"""What a run reports: lines, rows of metrics.jsonl; what is kept when a run continues. TensorBoard's files: test_events.py."""

import json
import re
import sys
import types

import pytest

from command.errors import UserError
from training.metrics import Average, Log, compact, read_metrics

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


def test_lines_and_rows(tf, tmp_path, capsys):
    log = Log(str(tmp_path), (found := state()), last_step=5)       # no terminal: no bar
    log.train(1, **NUMBERS)
    log.validation(1, 3.456, best=3.4)
    rows = (tmp_path / 'metrics.jsonl').read_text()      # written while the run goes on
    log.print('text')
    log.close()
    first, second, third = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r'\[1 \| \d{1,2}\.\d\d\] loss=2\.35 avg=2\.35 tokens/s=100 epoch=0\.123 lr=0\.00012', first)
    assert re.fullmatch(r'\[1 \| \d{1,2}\.\d\d\] validation loss = 3\.46 perplexity=31\.69 best=3\.40', second)
    assert third == 'text'
    assert [json.loads(row) for row in rows.splitlines()] == [{'step': 1, **NUMBERS}, {'step': 1, 'val_loss': 3.456}]
    assert found.average == [2.346, 1]


def test_rows_of_later_steps_are_dropped(tf, tmp_path):
    rows = [{'step': step, name: 1.0} for step in (1, 2, 3) for name in ('loss', 'val_loss')]
    path = tmp_path / 'metrics.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    Log(str(tmp_path), state(step=2, validated=1)).close()
    assert read_metrics(str(path)) == [rows[0], rows[1], rows[2]]


@pytest.mark.parametrize(('value', 'text'), [
    (1.234, '1.23'), (12.345, '12.35'), (123.456, '123.5'), (999.97, '1000'), (12345.6, '12346'), (99999.6, '1e+05'),
    (3e38, '3e+38'), (0, '0.00'), (float('nan'), 'nan'), (float('inf'), 'inf')])
def test_a_number_has_as_many_decimals_as_fit(value, text):
    assert compact(value, 2) == text


LOSSES = [0.0, 2.346, 99.996, 13557.0, 3.4e38, float('inf'), float('nan')]


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('seconds', [0.5, 9999.994, 99999.96, 9999999])
def test_a_training_line_has_at_most_79_columns(tf, tmp_path, capsys, monkeypatch, loss, seconds):
    log = Log(str(tmp_path), state(step=999_990))
    log._start -= seconds
    for rate, epoch, learning_rate in ((0.3, 0.0001, 0.000020499), (99999.7, 999.996, 1.25e-05), (3e7, 12345678, 1.25e-100)):
        log.train(999_999, **NUMBERS | {'loss': loss, 'tokens_per_second': rate, 'epoch': epoch, 'learning_rate': learning_rate})
    log.close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 79, lines


def test_a_validation_line(tf, tmp_path, capsys):
    log = Log(str(tmp_path), state(step=20_000))
    log._start -= 99999.9
    for loss in (3.456, 10.82, 800.0, float('nan')):
        log.validation(20_000, loss, best=3.4, patience=2)
    log.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition('] ')[2] for line in lines] == [
        'validation loss = 3.46 perplexity=31.69 best=3.40 patience=2',
        'validation loss = 10.82 perplexity=50011 best=3.40 patience=2',
        'validation loss = 800.0 perplexity=inf best=3.40 patience=2',
        'validation loss = nan perplexity=nan best=3.40 patience=2']
    assert max(map(len, lines)) <= 79, lines


def test_lines_of_some_steps_and_rows_of_all(tf, tmp_path, capsys):
    log = Log(str(tmp_path), state(step=4), log_every=3)
    for step in range(5, 11):
        log.train(step, **NUMBERS)
    log.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ['[5', '[6', '[9']     # the first one shows that it works
    assert [row['step'] for row in read_metrics(str(tmp_path / 'metrics.jsonl'))] == [5, 6, 7, 8, 9, 10]


def test_a_bar_on_a_terminal(tf, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    monkeypatch.setenv('COLUMNS', '60')
    (tmp_path / 'other').mkdir()
    log = Log(str(tmp_path), state(step=3), last_step=5)
    log.print('Training...')
    assert capsys.readouterr().out == 'Training...\n'      # no bar that has nothing to show
    log.train(4, **NUMBERS)
    assert (log._bar.n, log._bar.total, log._bar.ncols) == (4, 5, 57)
    log.close()
    assert log._bar.disable
    screen = capsys.readouterr().out
    assert 'loss=2.35' in screen and '?step/s' not in screen.partition('loss=')[0]
    log = Log(str(tmp_path / 'other'), state(), last_step=0)        # without an end
    log.train(1, **NUMBERS)
    assert log._bar is None
    log.close()


def test_rows_are_written_again_only_if_their_file_is_gone(tf, tmp_path):
    log, path = Log(str(tmp_path), state()), tmp_path / 'metrics.jsonl'
    log.train(1, **NUMBERS)
    number = path.stat().st_ino
    log.write_again(1)
    assert path.stat().st_ino == number
    path.unlink()
    log.write_again(1)
    log.train(2, **NUMBERS)
    log.close()
    assert [row['step'] for row in read_metrics(str(path))] == [1, 2]


def test_a_directory_that_cannot_be_written(tf, tmp_path):
    with pytest.raises(UserError, match='cannot write .*nowhere'):
        Log(str(tmp_path / 'nowhere'), state())
