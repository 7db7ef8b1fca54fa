#!/usr/bin/env python3
"""Makes what the pages show of a run: the README's output, and the pictures in docs/pictures.

    pip install -r requirements-test.txt
    docs/example/make.py

Runs the README's first command, and those of "Curves" in docs/fine-tuning.md, as they are written there, in a copy of the
project that it removes again. They train on docs/example/alice.txt, which never changes: "Alice's Adventures in Wonderland" by
Lewis Carroll (1865), in the public domain. The picture of TensorBoard needs Chromium; without it, the old one stays.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
README = os.path.join(ROOT, 'README.md')
CURVES = os.path.join(ROOT, 'docs', 'fine-tuning.md')
PICTURES = os.path.join(ROOT, 'docs', 'pictures')
STEP = re.compile(r'^\[(\d+) \| ', re.MULTILINE)
BLOCK = re.compile(r'(?<=^```text\n).*?(?=^```$)', re.MULTILINE | re.DOTALL)


def first_command(readme: str) -> str:
    """The part of the README's first command that trains."""
    [command] = re.findall(r'&& +(PYTHONPATH=src \S+ train\.py [^\n]*)', readme.replace('\\\n', ''))[:1]
    return re.sub(' +', ' ', command)


def curve_commands(page: str) -> list[str]:
    """The commands that train of the section "Curves"."""
    section = re.search(r'^### Curves$(.*?)^##', page, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r'^\./train\.py .*$', section, re.MULTILINE)


def shorten(output: str) -> str:
    """The output of a run without the lines from its fourth step to its last one."""
    lines = output.splitlines()
    steps = [i for i, line in enumerate(lines) if STEP.match(line)]
    return '\n'.join([*lines[:steps[3]], '...', *lines[steps[-1]:]]) + '\n'


def run(command: str, directory: str) -> str:
    """Lets bash run a command in a directory. Returns its standard output."""
    print(f'$ {command}', flush=True)
    return subprocess.run(['bash', '-c', command], cwd=directory, stdout=subprocess.PIPE, encoding='utf-8', check=True).stdout


def copy_project(directory: str) -> None:
    """Links what a run reads into a directory."""
    for name in ('src', 'docs', 'models', 'train.py'):
        os.symlink(os.path.join(ROOT, name), os.path.join(directory, name))
    os.symlink(sys.prefix, os.path.join(directory, '.venv'))


def write_output(directory: str) -> None:
    """Writes what the first command prints into the README."""
    with open(README, encoding='utf-8') as file:
        readme = file.read()
    output = shorten(run(first_command(readme), directory))
    with open(README, 'w', encoding='utf-8') as file:
        file.write(BLOCK.sub(lambda _: output, readme, count=1))


def make_pictures(directory: str) -> None:
    with open(CURVES, encoding='utf-8') as file:
        commands = curve_commands(file.read())
    shutil.rmtree(os.path.join(directory, 'checkpoint'))
    for command in commands:
        run(command.replace('./train.py', '.venv/bin/python train.py', 1), directory)
    shutil.copyfile(os.path.join(directory, 'checkpoint', 'faster', 'loss.png'), os.path.join(PICTURES, 'loss.png'))
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if browser:
        photograph(browser, os.path.join(directory, 'checkpoint'), os.path.join(PICTURES, 'tensorboard.png'))
    else:
        print('docs/pictures/tensorboard.png stays as it is: there is no Chromium')


def photograph(browser: str, logdir: str, path: str) -> None:
    """Takes a picture of TensorBoard as it opens."""
    with socket.create_server(('localhost', 0)) as free:
        port = free.getsockname()[1]
    address = f'http://localhost:{port}/'
    board = subprocess.Popen([sys.executable, '-m', 'tensorboard.main', '--logdir', logdir, '--port', str(port)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f'{address}data/runs', 'slower/validation')
        # Without 3D, TensorBoard draws its curves as part of the page, and the picture waits for them.
        subprocess.run([browser, '--headless', '--no-sandbox', '--disable-3d-apis', '--hide-scrollbars', '--window-size=1300,720',
                        '--virtual-time-budget=30000', f'--screenshot={path}', address], stderr=subprocess.DEVNULL, check=True)
    finally:
        board.terminate()
        board.wait()


def wait_for(address: str, text: str, seconds: int = 120) -> None:
    """Waits until a page has a text. Raises TimeoutError."""
    for _ in range(seconds):
        try:
            with urllib.request.urlopen(address) as page:
                if text in page.read().decode():
                    return
        except OSError:
            pass
        time.sleep(1)
    raise TimeoutError(f'{address} does not show {text}')


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        copy_project(directory)
        write_output(directory)
        make_pictures(directory)


if __name__ == '__main__':
    main()
