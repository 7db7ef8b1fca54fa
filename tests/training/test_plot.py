"""The plot of a run: which lines it draws from a metrics.jsonl."""

import json
import sys

import pytest

from command.errors import UserError
from training import plot

pytest.importorskip('matplotlib')


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """drawn(rows) -> label -> points of each line that plot_losses draws."""
    from matplotlib.figure import Figure

    def run(rows):
        figures, save = [], Figure.savefig
        monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **more: figures.append(self) or save(self, *args, **more))
        (tmp_path / 'run1').mkdir()
        (tmp_path / 'run1/metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
        path = tmp_path / 'run1/loss.png'
        assert plot.plot_losses(f'{tmp_path}/run1/') == f'{tmp_path}/run1/loss.png'
        assert path.read_bytes().startswith(b'\x89PNG')
        [axes] = figures[0].axes
        assert axes.get_title() == 'run1'
        return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    return run


def test_training_and_validation(drawn):
    lines = drawn([{'step': 2, 'loss': 4.0}, {'step': 2, 'val_loss': 5.0}, {'step': 3, 'loss': 1.0},
                   {'step': 4, 'val_loss': 6.0}])
    assert lines.pop('training, each step') == [[2, 4], [3, 1]]
    assert lines.pop('validation') == [[2, 5], [4, 6]]
    assert lines == {'training, average of the steps around': [[2, 4], [3, 1]]}     # too few to average


def test_the_average_does_not_lag_behind():
    losses = [8 - step / 10 for step in range(40)] + [4.0] * 80
    smoothed = plot.smooth(losses)
    assert len(smoothed) == len(losses)
    assert smoothed[:37] == pytest.approx(losses[:37])      # 120 // 40 = 3 steps on either side; fewer at the beginning
    assert smoothed[43:] == pytest.approx(losses[43:])
    assert losses[39] < smoothed[39] < losses[38]
    noise = [1.0, 3.0] * 80
    assert plot.smooth(noise)[4:-4] == pytest.approx([17 / 9, 19 / 9] * 76)     # of 9 each
    assert plot.smooth(noise)[-1] == pytest.approx(11 / 5)      # the last 5
    assert plot.smooth([]) == []


def test_a_run_without_validation(drawn):
    assert drawn([{'step': 1, 'loss': 4.0}]).keys() == {'training, each step', 'training, average of the steps around'}


def test_a_run_without_steps(drawn):
    assert drawn([{'step': 1, 'val_loss': 4.0}]) == {'validation': [[1, 4]]}


def test_matplotlib_is_looked_for(monkeypatch):
    plot.check()
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(UserError, match='pip install matplotlib'):
        plot.check()
