"""What a terminal of 80 columns shows of a run that Ctrl-C stops, with a bar and without: real processes."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios

import pytest

from conftest import ROOT, SMALL_RUN

COLUMNS = 80
CONTROL = re.compile(r'\r|\n|\x1b\[(\d*)A|[^\x1b]')     # all that a bar and Python print


def rows(text):
    """The rows of a terminal of COLUMNS columns after `text`, without spaces at their ends; the cursor is in the last one."""
    screen, x, y = {}, 0, 0
    for match in CONTROL.finditer(text):
        if match[0] == '\r':
            x = 0
        elif match[0] == '\n':
            y += 1
        elif match[0].startswith('\x1b'):
            y -= int(match[1] or 1)
        else:
            x, y = (0, y + 1) if x == COLUMNS else (x, y)
            screen[y, x] = match[0]
            x += 1
    return [''.join(screen.get((row, column), ' ') for column in range(COLUMNS)).rstrip() for row in range(y + 1)]


def test_the_terminal_itself():
    assert rows('abc\rx\ny\n' + 80 * '-' + 'w') == ['xbc', ' y', '  ' + 78 * '-', '--w']


@pytest.fixture
def shown(home):
    """shown(flags, until): the rows that train.py shows on a terminal, on which Ctrl-C is pressed once `until` is there."""
    def run(flags, until):
        pid, terminal = pty.fork()
        if not pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', 24, COLUMNS, 0, 0))
            os.environ.pop('COLUMNS', None)
            os.chdir(home)
            os.execv(sys.executable, [sys.executable, os.path.join(ROOT, 'train.py'), '--dataset', 'corpus.txt',
                                      *map(str, SMALL_RUN), *flags])
        output, pressed = b'', False
        try:
            while piece := os.read(terminal, 1000):
                output += piece
                if not pressed and until in output:
                    pressed = os.write(terminal, b'\x03')
        except OSError:     # Linux's end of a terminal's output
            pass
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), rows(output.decode())
    return run


@pytest.mark.parametrize('bar', [True, False])
def test_a_run_until_ctrl_c(shown, bar):
    flags = ['--val_every', '2', '--val_batch_count', '2', '--patience', '9000', *(['--max_steps', '100000'] if bar else [])]
    status, screen = shown(flags, b'[3 |')
    assert status == 0
    text = '\n'.join(screen)
    in_order = ['Loading dataset', 'Loading TensorFlow', 'Device: ', 'Building the graph', 'Loading checkpoint', 'Training...',
                '[1 | ', '[2 | ', '^C', 'finishing this step, then saving', 'SIGINT: stopping', 'Saving checkpoint/run1/model-',
                'Sample from it:', 'Continue it:']
    places = [text.find(words) for words in in_order]
    assert -1 not in places and places == sorted(places), text
    assert text.count('validation loss') >= 2 and ' patience=9000' in text
    bars = [row for row in screen if 'step/s]' in row]
    assert bool(bars) == bar
    assert [row for row in bars if not re.fullmatch(r' *\d+%\|.*step/s\](\^C)?', row)] == []    # no text beside a bar
    # On a line of its own after ^C; only a step that ended meanwhile, and the bar, may come between them.
    assert re.search(r'\^C\n((\[\d+ \| | *\d+%\|).*\n)*finishing', text), text
    lines = [row for row in screen if row.startswith('[')]
    assert lines and all(re.match(r'\[\d+ \| \d+\.\d\d\] (loss=|validation loss = )', row) for row in lines)
    assert max(map(len, lines)) <= 79
    assert screen[-1] == ''     # where the shell's prompt follows


def test_ctrl_c_before_the_training(shown):
    status, screen = shown([], b'Loading TensorFlow')
    assert status == 130
    assert screen[-2:] in (['^C', ''], ['Loading TensorFlow^C', ''])      # a terminal may show ^C before the end of the line
