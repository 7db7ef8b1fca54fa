"""bench/run.py: which sections of bench/README.md it replaces, and their contents."""

import importlib.metadata
import os
import platform
import re
import sys

import pytest

from command.errors import UserError
from conftest import ROOT

SECTION = '<!-- bench/run.py --only train -->\nold\n<!-- end -->'


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """bench/run.py as a module, which finds README.md and the other scripts in a temporary directory."""
    from bench import run
    monkeypatch.setattr(run, 'HERE', str(tmp_path))
    monkeypatch.setattr(run, 'README', str(tmp_path / 'README.md'))
    # The tests must not depend on which packages are installed.
    monkeypatch.setattr(importlib.metadata, 'version', lambda package: '1.2.3')
    return run


@pytest.fixture
def run(bench, tmp_path, monkeypatch):
    """Runs bench/run.py with scripts that print their arguments: run('--quick') -> the text of README.md afterwards."""
    sections = '\n'.join(f'<!-- bench/run.py --only {name} -->\nold {name}\n<!-- end -->' for name in bench.BENCHMARKS)
    (tmp_path / 'README.md').write_text(f'above\n{sections}\nbelow\n')
    for name in bench.BENCHMARKS:
        (tmp_path / f'{name}.py').write_text('import sys\nprint("$", *sys.argv[1:])\n')
    monkeypatch.delenv('GPT2_VOCABULARY', raising=False)

    def call(*flags):
        monkeypatch.setattr(sys, 'argv', ['run.py', *flags])
        bench.main()
        return (tmp_path / 'README.md').read_text()
    return call


def test_every_benchmark_has_a_section(bench):
    with open(os.path.join(ROOT, 'bench', 'README.md'), encoding='utf-8') as file:
        text = file.read()
    for name in bench.BENCHMARKS:
        changed = bench.replace_section(text, name, 'NEW')
        assert f'<!-- bench/run.py --only {name} -->\nNEW\n<!-- end -->' in changed
        assert os.path.exists(os.path.join(ROOT, 'bench', f'{name}.py'))
    assert len(re.findall('<!-- bench/run.py', text)) == len(bench.BENCHMARKS)


def test_only_the_text_between_the_comments_changes(bench):
    other = SECTION.replace('train', 'sample')
    text = f'above\n{other}\nbetween\n{SECTION}\nbelow\n'
    assert bench.replace_section(text, 'train', r'new \1') == text.replace(SECTION, SECTION.replace('old', r'new \1'))
    for wrong in ('nothing', SECTION + SECTION, SECTION.replace('<!-- end -->', '')):
        with pytest.raises(UserError, match='must have one section'):
            bench.replace_section(wrong, 'train', 'new')


def test_ratios_come_first(bench):
    output = (f'{platform.machine()}, 2 cores, 2026-11-24, 3 rounds; memory reads at 24.0 GB/s\n\n256 tokens\n\n'
              "| | tokens/s | of this toolkit's time | roof |\n|---|---|---|---|\n| this toolkit | 30 | 1.00 | 0.7 |\n\n"
              'peers\n\n| | time per token | tokens/s |\n|---|---|---|\n| PyTorch | 1.20 | 125 |\n')
    assert bench.tables(output) == (
        "3 rounds; memory reads at 24.0 GB/s\n\n256 tokens\n\n"
        "| | of this toolkit's time | tokens/s | roof |\n|---|---|---|---|\n| this toolkit | 1.00 | 30 | 0.7 |\n\n"
        'peers\n\n| | time per token | tokens/s |\n|---|---|---|\n| PyTorch | 1.20 | 125 |')


def test_the_line_about_the_machine_is_removed(bench):
    for output in (f'{platform.machine()}, 2 cores, 2026-11-24\n\npeers\n',
                   f'{platform.machine()}, AMD, 2 cores, 2026-11-24; Python 3.11, regex 1\n\npeers\n'):
        assert bench.tables(output) == 'peers'


def test_formats_of_faults_and_real_size(bench):
    assert bench.results('kill 1: resumed from 3\ndamage 2: noticed\n9 of 9 kills survived\n') == '* 9 of 9 kills survived'
    assert bench.commands('$ train.py --max_steps 3\n[1 | 2.0] loss=9\n-- 31.0 s, peak 2.2 GiB\n') == (
        '```text\n$ train.py --max_steps 3\n-- 31.0 s, peak 2.2 GiB\n```')


def test_a_section_names_machine_versions_and_command(run, bench):
    text = run('--only', 'encode', 'faults', '--vocabulary', '/secret/v', '--text', '../secret.txt')
    assert 'secret' not in text
    assert f'{platform.machine()}, ' in text and f'{os.cpu_count()} cores' in text
    assert re.search(r', \d{4}-\d\d-\d\d; Python [\d.]+, regex 1.2.3, ', text)
    assert ': `bench/encode.py VOCABULARY_DIR TEXT --rounds 3 --memory`\n\n$ VOCABULARY_DIR TEXT --rounds 3 --memory\n' in text
    assert ': `bench/faults.py --kills 100 --damages 50`\n\n* $ --kills 100 --damages 50\n' in text
    assert text.startswith('above\n') and text.endswith('below\n')
    assert re.findall(r'^old (\w+)$', text, re.MULTILINE) == ['train', 'memory', 'sample', 'serve', 'distributed', 'real_size']


def test_a_script_gets_the_files_that_it_takes_and_no_others(run):
    text = run('--only', 'memory', '--vocabulary', 'v')
    assert ', numpy 1.2.3: `bench/memory.py VOCABULARY_DIR`\n\n$ VOCABULARY_DIR\n' in text


def test_a_quick_run_prints_and_leaves_the_file_unchanged(run, capsys):
    text = run('--quick', '--only', 'faults', 'train')
    assert 'old train' in text and 'old faults' in text
    printed = capsys.readouterr().out
    assert '`bench/faults.py --kills 2 --damages 2`' in printed
    assert printed.index('bench/faults.py') < printed.index('`bench/train.py --rounds 1 --only peers`')


def test_after_a_failure_the_others_still_run(run, tmp_path):
    (tmp_path / 'train.py').write_text('raise SystemExit(3)\n')
    with pytest.raises(UserError, match=r'unchanged: train \(status 3\)$'):
        run('--only', 'train', 'faults')
    text = (tmp_path / 'README.md').read_text()
    assert 'old train' in text and 'old faults' not in text


def test_what_is_missing_is_reported_before_anything_runs(run, bench, tmp_path, monkeypatch):
    for name in bench.BENCHMARKS:
        (tmp_path / f'{name}.py').write_text('raise SystemExit("started")\n')
    with pytest.raises(UserError, match="invalid choice: 'trian'"):
        run('--only', 'trian')
    with pytest.raises(UserError, match='^memory needs --vocabulary; or select others'):
        run('--text', 't')
    with pytest.raises(UserError, match='^encode needs --vocabulary and --text; or select others'):
        run('--vocabulary', 'v')

    def no_torch(package):
        if package == 'torch':
            raise importlib.metadata.PackageNotFoundError(package)
        return '1'
    monkeypatch.setattr(importlib.metadata, 'version', no_torch)
    with pytest.raises(UserError, match='train needs torch: pip install -r bench/requirements.txt'):
        run('--only', 'faults', 'train')
    (tmp_path / 'README.md').write_text('no sections')
    with pytest.raises(UserError, match='must have one section'):
        run('--only', 'faults')
