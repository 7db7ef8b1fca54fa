"""What Windows lacks is not needed to encode, train in one process, evaluate, sample and create a model."""

import os
import re
import subprocess
import sys

from conftest import ROOT

# Hides it, then runs scripts in one process, which imports TensorFlow once.
RUN = r'''
import errno, multiprocessing, os, runpy, signal, stat, sys
for name in ('fcntl', 'resource', 'readline', 'termios', 'pwd', 'grp', 'tty', 'pty'):
    sys.modules[name] = None
for name in ('pread', 'preadv', 'pwrite', 'fork', 'forkpty', 'sched_getaffinity', 'sched_setaffinity', 'sysconf',
             'sysconf_names', 'killpg', 'setsid', 'getpgid', 'getuid', 'geteuid', 'statvfs', 'mkfifo', 'chown', 'O_DIRECTORY'):
    if hasattr(os, name):
        delattr(os, name)
for name in ('SIGHUP', 'SIGALRM', 'SIGUSR1', 'SIGUSR2', 'SIGKILL', 'setitimer', 'pthread_sigmask'):
    delattr(signal, name)
multiprocessing.get_all_start_methods = lambda: ['spawn']
opened = os.open

def open_file(path, flags, *args, **kwargs):
    if isinstance(path, str) and os.path.isdir(path):
        raise PermissionError(errno.EACCES, 'Permission denied', path)
    return opened(path, flags, *args, **kwargs)

os.open = open_file
for command in sys.stdin.read().splitlines():
    print('>', command)
    sys.argv = command.split('\t')
    runpy.run_path(sys.argv[0], run_name='__main__')
'''
COMMANDS = [
    ['encode.py', 'two_tasks.txt', 'two_tasks.npz', '--model_name', 'toy', '--processes', '4'],
    ['train.py', '--model_name', 'toy', '--dataset', 'two_tasks.npz', '--max_steps', '1', '--sample_every', '1'],
    ['train.py', '--model_name', 'toy', '--dataset', 'corpus.txt', '--max_steps', '2', '--sample_length', '3'],
    ['evaluate.py', '--run_name', 'run1', '--dataset', 'corpus.txt'],
    ['src/interactive_conditional_samples.py', '--run_name', 'run1', '--prompt', 'the', '--length', '3'],
    ['create_model.py', 'new', '--dataset', 'corpus.txt', '--vocab_size', '300', '--n_ctx', '8', '--n_embd', '8', '--n_head', '2',
     '--n_layer', '1'],
]


def test_scripts_run_without_what_windows_lacks(home):
    (home / 'two_tasks.txt').write_text((home / 'corpus.txt').read_text() * 700)       # for several processes
    lines = ['\t'.join([os.path.join(ROOT, script), *flags]) for script, *flags in COMMANDS]
    result = subprocess.run([sys.executable, '-c', RUN], cwd=home, input='\n'.join(lines), capture_output=True, text=True,
                            check=False)
    assert result.returncode == 0, result.stderr + result.stdout
    assert result.stderr == ''
    for done in (
            r'two_tasks\.npz .*tokens=', r'\[1 \| .*loss=', r'\[2 \| .*loss=', r'bits per byte', r'SAMPLE 1 ', r'models/new: '):
        assert re.search(done, result.stdout), f'{done}\n{result.stdout}'
