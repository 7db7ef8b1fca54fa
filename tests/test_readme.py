"""README.md and docs: every command is run, in a copy of the project; flags, links and places they name are there.

Bash runs each command as it is written. Only the scripts themselves run in this process, which saves the import of TensorFlow
each time, and with fewer steps, as SHORTENED says. What is not run is in NOT_RUN, with the reason.
"""

import contextlib
import glob
import importlib.util
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from multiprocessing.connection import Client, Listener

import pytest

import train  # noqa: F401  (so that a block imports this one, not the stub)
from checkpoint_files import read_checkpoint, write_checkpoint
from command import machine
from command.models import PUBLISHED
from conftest import ROOT, TEXT
from network.hparams import load_hparams
from optional import HUGGINGFACE

PAGES = ['README.md', *sorted(os.path.relpath(path, ROOT) for path in glob.glob(os.path.join(ROOT, 'docs', '*.md')))]
SAMPLING = ('src/generate_unconditional_samples.py', 'src/interactive_conditional_samples.py')
SCRIPTS = ('train.py', 'encode.py', 'create_model.py', 'download_model.py', 'evaluate.py', 'convert.py', 'serve.py', *SAMPLING)
# yaml and bash: for clusters; py: Python that needs a server, and is not run.
LANGUAGES = ('sh', 'python', 'console', 'text', 'toml', 'bibtex', 'yaml', 'bash', 'py')

NOT_RUN = {
    'python3 -m venv .venv': 'sets up an environment, as .ci/run does',
    '.venv/bin/pip install -q -r requirements.txt': 'sets up an environment, as .ci/run does',
    '.venv/bin/pip install -q -r requirements-test.txt': 'sets up an environment, as .ci/run does',
    '.venv/bin/pip install -q -r requirements-gpu.txt': 'downloads gigabytes of libraries for a GPU',
    '.venv/bin/pip install -q torch transformers': 'downloads gigabytes of libraries for a GPU',
    '.venv/bin/python bench/gpu.py': 'takes minutes; test_bench_gpu runs it',
    '.venv/bin/python -m pytest': 'is what runs this test',
    'source .venv/bin/activate': 'is for the environment, which is this one',
    './download_model.py 117M': 'needs the network; the test has a stand-in for the model',
    'tensorboard --logdir checkpoint': 'goes on until Ctrl-C',
    'pip install -q -r requirements-serve.txt': 'sets up an environment, as .ci/run does',
    ("curl -s http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d "
     '\'{"prompt": "ROMEO:", "max_tokens": 40, "seed": 1}\''): 'needs a server; tests/serving has one',
    ('lm_eval --model local-completions --model_args model=tiny,base_url=http://127.0.0.1:8000/v1/completions,tokenizer=tiny-hf,'
     'max_length=128,num_concurrent=8 --tasks mine.yaml'): 'needs a server; tests/serving/test_clients.py does the same',
}
# What a block names -> what must be installed to run it.
OPTIONAL = {'safetensors': 'safetensors', 'transformers': 'transformers', 'import PeftModel': 'peft', 'to_gguf': 'gguf',
            '.toml': 'tomllib'}
# Commands of which only the flags are checked, because another one does the same.
PARSED = {
    'src/interactive_conditional_samples.py --run_name run1 --top_k 40',
    'src/generate_unconditional_samples.py --model_name tiny --nsamples 4 --batch_size 4 --temperature 0.7',
    ('./train.py --model_name tiny --dataset docs/example/alice.txt --val_split 0.1 --val_every 20 --batch_size 16 '
     '--learning_rate 0.0005 --max_steps 400 --sample_every 0 --seed 1 --run_name slower'),
    './evaluate.py --model_name 124M --dataset test.txt',
    # These go on until Ctrl-C; test_serve does so.
    './serve.py --model_name tiny',
    './serve.py --model_name tiny --host 0.0.0.0 --token "$(openssl rand -hex 16)"',
    # These start, or wait for, processes of their own; test_distributed and test_local_workers do so.
    './train.py --dataset corpus.txt --workers 10.0.0.1:2222,10.0.0.2:2222 --worker_index 0',
    './train.py --dataset corpus.txt --workers 10.0.0.1:2222,10.0.0.2:2222 --worker_index 1',
    './train.py --model_name tiny --dataset corpus.txt --local_workers 2 --max_steps 100',
    './train.py --model_name greek --dataset greek.txt --batch_size 8 --learning_rate 0.001 --max_steps 2000 --run_name greek',
}
# Flags of at most so much: a number that is larger becomes this.
SHORTENED = {'--max_steps': 3, '--sample_every': 2, '--sample_length': 6, '--val_every': 2, '--val_batch_count': 2,
             '--warmup_steps': 1, '--measure_steps': 1, '--length': 6, '--n_layer': 1, '--seq_length': 64}
# Flags that commands get which do not have them.
ADDED = {'train.py': {'--max_steps': 3, '--sample_every': 0, '--sample_length': 6, '--val_batch_count': 2, '--seq_length': 64},
         **{script: {'--length': 6} for script in SAMPLING}}
# What a script prints when it has done what it is for.
DONE = {'train.py': r'^\[\d+ \| .*\] loss=|^memory of a training step',
        'encode.py': r' tokens=\d+', 'create_model.py': r'^models/.* parameters',
        'evaluate.py': r'bits.per.byte', 'convert.py': r'weights of',
        **dict.fromkeys(SAMPLING, r'^======== SAMPLE 1 ========$|^\{"prompt": ')}
TYPED = 'the quick\n'       # on the standard input of every command: a line that a person types
STAND_IN = ['--vocab_size', '300', '--n_ctx', '1024', '--n_embd', '8', '--n_head', '2', '--n_layer', '1']

# What the copy of the project has in place of each script: it sends its arguments and input to this process.
STUB = f'''#!{sys.executable}
import os, sys
from multiprocessing.connection import Client
with Client(os.environ['TEST_README']) as server:
    server.send((os.path.relpath(sys.argv[0], os.environ['TEST_README_HOME']), sys.argv[1:], sys.stdin.buffer.read()))
    status, out, err = server.recv()
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(status)
'''


def blocks(page):
    """The fenced blocks of a page: (language, content)."""
    with open(os.path.join(ROOT, page), encoding='utf-8') as file:
        return re.findall(r'^```([^\n]*)\n(.*?)^```$', file.read(), re.MULTILINE | re.DOTALL)


def commands(content):
    """The commands of a block, without those of NOT_RUN: 'a && b' -> 'b', if `a` is one."""
    for line in content.replace('\\\n', '').splitlines():
        if run := ' && '.join(part for part in line.split(' && ') if part not in NOT_RUN):
            yield run


def shorten(script, arguments):
    """The arguments with numbers that SHORTENED limits, and with those flags that ADDED names."""
    arguments = list(arguments)
    for flag in SHORTENED.keys() & set(arguments):
        value = arguments.index(flag) + 1
        arguments[value] = str(min(int(arguments[value]), SHORTENED[flag]))
    for flag, value in ADDED.get(script, {}).items():
        arguments += [] if flag in arguments else [flag, str(value)]
    return arguments


def parse_only(_, arguments):
    """The arguments with --help, which a script comes to when it has read all before it."""
    return [*arguments, '--help']


def as_they_are(_, arguments):
    return arguments


def run_script(script, arguments, typed=b''):
    """Runs a script of the project in this process. Returns (status, standard output, standard error)."""
    kept, path = (sys.argv, sys.stdin), list(sys.path)
    sys.argv, sys.stdin = [script, *arguments], io.TextIOWrapper(io.BytesIO(typed), encoding='utf-8')
    status = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            runpy.run_path(os.path.join(ROOT, script), run_name='__main__')
        except SystemExit as end:
            status = end.code or 0
        finally:
            (sys.argv, sys.stdin), sys.path[:] = kept, path
    return status, out.getvalue(), err.getvalue()


def run_command(command, project, change=shorten):
    """Lets bash run a command in the copy of the project. Returns its status and all its output.

    change: from a script's name and arguments to the arguments that it gets. Asserts that each script that ended well did
    what it is for, or told its flags.
    """
    with Listener() as listener:
        environment = os.environ | {'TEST_README': listener.address, 'TEST_README_HOME': str(project)}
        bash = subprocess.Popen(['bash', '-euo', 'pipefail', '-c', command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, env=environment)
        printed = []

        def wait():
            printed.append(bash.communicate(TYPED)[0])
            with Client(listener.address) as end:
                end.send(None)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while True:
            with listener.accept() as stub:
                if not (call := stub.recv()):
                    break
                script, arguments, typed = call
                result = run_script(script, change(script, arguments), typed)
                stub.send(result)
            status, out, _ = result
            done = r'^usage: |^NAME$' if change is parse_only else DONE[script]
            assert status or re.search(done, out, re.MULTILINE), f'{command}\n{out}'
        waiting.join()
    return bash.returncode, printed[0]


@pytest.fixture(scope='module')
def models(tf, tmp_path_factory):
    """Model name -> the directory of a model that takes its place, of one block: for 124M and 355M a small one with their window,
    for tiny its first block."""
    home = tmp_path_factory.mktemp('models')
    (home / 'corpus.txt').write_text(TEXT)
    status, out, err = run_script('create_model.py', ['124M', '--models_dir', str(home), '--dataset',
                                                      str(home / 'corpus.txt'), *STAND_IN])
    assert status == 0, out + err
    tiny = os.path.join(ROOT, 'models', 'tiny')
    shutil.copytree(tiny, home / 'tiny', ignore=shutil.ignore_patterns('model.ckpt*'))
    (home / 'tiny' / 'hparams.json').write_text(json.dumps(vars(load_hparams(tiny)) | {'n_layer': 1}))
    weights = {name: value for name, value in read_checkpoint(tiny).items() if not re.match('model/h[1-9]', name)}
    write_checkpoint(home / 'tiny' / 'model.ckpt', weights)
    return {'tiny': home / 'tiny', **dict.fromkeys(PUBLISHED, home / '124M')}


@pytest.fixture
def project(models, tmp_path, monkeypatch):
    """A copy of the project in which scripts are stubs, with the models and texts that the pages name."""
    for name in SCRIPTS:
        stub = tmp_path / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(STUB)
        stub.chmod(0o755)
    for path in glob.glob(os.path.join(ROOT, 'src', '*')):
        if os.path.isdir(path):     # a copy: ** does not follow links
            shutil.copytree(path, tmp_path / 'src' / os.path.basename(path), ignore=shutil.ignore_patterns('__pycache__'))
        elif not (copy := tmp_path / 'src' / os.path.basename(path)).exists():
            copy.symlink_to(path)
    (tmp_path / 'docs').mkdir()
    (tmp_path / 'docs' / 'example').symlink_to(os.path.join(ROOT, 'docs', 'example'))
    (tmp_path / 'models').mkdir()
    for name, directory in models.items():
        (tmp_path / 'models' / name).symlink_to(directory)
    (tmp_path / '.venv' / 'bin').mkdir(parents=True)
    (tmp_path / '.venv' / 'bin' / 'python').symlink_to(sys.executable)
    (tmp_path / 'corpus').mkdir()
    (tmp_path / 'poems').mkdir()
    for name in ('corpus/one.txt', 'corpus/two.txt', 'corpus.txt', 'test.txt', 'novel.txt', 'poems/one.txt', 'poems/two.txt'):
        (tmp_path / name).write_text(TEXT)
    (tmp_path / 'chats.csv').write_text('sender,message\n' + 'me,"The quick brown fox, again."\n' * 60)
    (tmp_path / 'greek.txt').write_text('ἄνδρα μοι ἔννεπε μοῦσα πολύτροπον ὃς μάλα πολλὰ πλάγχθη θάλασσα.\n' * 60)
    (tmp_path / 'stories.jsonl').write_text('{"story": "The quick brown fox jumps over the lazy dog."}\n' * 60)
    (tmp_path / 'prompts.txt').write_text('ROMEO:\nThe king\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, 'available_processors', lambda: 1)     # sampling in one shard, which compiles half as much
    return tmp_path


def run_block(page, language, content, project, capsys, names):
    """Runs a block of a page; asserts that it does what the page says. names: what its earlier Python blocks defined."""
    if language == 'python':
        (project / 'block.py').write_text(content)
        path = list(sys.path)
        try:
            names |= runpy.run_path(str(project / 'block.py'), {name: names[name] for name in names if not name.startswith('__')})
        finally:
            sys.path[:] = path
        assert capsys.readouterr().out.strip(), f'{page}\n{content}'
    elif language == 'toml':        # which begins with a comment: the name of the file
        (project / content.splitlines()[0].removeprefix('# ')).write_text(content)
    elif language == 'console':
        first, *expected = content.splitlines()
        _, output = run_command(first.removeprefix('$ '), project, as_they_are)
        assert output.splitlines() == expected, page
    elif language == 'sh':
        for command in commands(content):
            status, output = run_command(command, project, parse_only if command in PARSED else shorten)
            assert status == 0, f'{page}: {command}\n{output}'


@pytest.mark.parametrize('page', PAGES)
def test_every_block_of_a_page_runs(page, project, capsys):
    missing, names = set(), {}
    for language, content in blocks(page):
        lacking = {package for name, package in OPTIONAL.items() if name in content and importlib.util.find_spec(package) is None}
        missing |= lacking
        if not lacking:
            run_block(page, language, content, project, capsys, names)
    assert (project / 'corpus.txt').read_text() == TEXT
    if missing:
        pytest.skip(f'blocks of {page} need {", ".join(sorted(missing))}: pip install -r {HUGGINGFACE} (tomllib: Python 3.11)')


def test_every_block_says_what_it_is():
    for page in PAGES:
        with open(os.path.join(ROOT, page), encoding='utf-8') as file:
            assert file.read().count('```') == 2 * len(blocks(page)), page
        for language, content in blocks(page):
            assert language in LANGUAGES, f'{page}: {language!r}\n{content}'
            if language == 'text':      # which nobody runs: no place for a command
                assert not re.search(r'^(\$ |\./|src/|pip |python)', content, re.MULTILINE), f'{page}\n{content}'


def test_all_that_is_not_run_is_there():
    lines = {line for page in PAGES for language, content in blocks(page) if language == 'sh' for line in content.splitlines()}
    assert NOT_RUN.keys() <= {part for line in lines for part in line.split(' && ')}
    assert lines >= PARSED
    assert all(NOT_RUN.values())


def flags_of(script, *command):
    """The flags in a script's --help."""
    status, out, _ = run_script(script, [*command, '--help'])
    assert status == 0
    return set(re.findall(r'--[a-z][\w-]*', out)) - {'--help'}


@pytest.fixture(scope='module')
def flags():
    """Script -> its flags."""
    found = {script: flags_of(script) for script in SCRIPTS if script != 'convert.py'}
    return found | {'convert.py': set().union(*(flags_of('convert.py', name) for name in ('to_hf', 'from_hf', 'to_gguf')))}


def text_of_pages():
    return {page: open(os.path.join(ROOT, page), encoding='utf-8').read() for page in PAGES}


@pytest.mark.parametrize('script', SCRIPTS)
def test_every_flag_is_documented(script, flags):
    text = ' '.join(text_of_pages().values()).replace('--no-', '--').replace('--nostop', '--stop')
    known = {flag.replace('--no-', '--').replace('--nostop', '--stop') for flag in flags[script]}
    assert sorted(flag for flag in known if not re.search(rf'{flag}\b', text)) == []


def test_every_flag_in_the_pages_is_one(flags):
    known = set().union(*flags.values()) | {'--help', '--logdir', '--nostop_at_eot', '--batch'}     # --batch: abbreviated
    known |= {'--model', '--model_args', '--tasks'}     # of lm_eval
    for page, text in text_of_pages().items():
        assert {flag for flag in re.findall(r'(?<![\w-])--[a-z][\w-]*', text) if flag not in known} == set(), page


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    with open(path, encoding='utf-8') as file:
        headings = re.findall(r'^#+ (.*)$', re.sub(r'^```.*?^```$', '', file.read(), flags=re.MULTILINE | re.DOTALL),
                              re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_every_link_leads_somewhere():
    for page, text in text_of_pages().items():
        for target in re.findall(r'\]\(([^)]+)\)', text):
            path, _, anchor = target.partition('#')
            path = os.path.normpath(os.path.join(ROOT, os.path.dirname(page), path)) if path else os.path.join(ROOT, page)
            assert os.path.exists(path), f'{page}: {target}'
            assert not anchor or anchor in anchors(path), f'{page}: {target}'
