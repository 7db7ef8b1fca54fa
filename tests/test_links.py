"""Scripts, and src itself, started through a symbolic link from another directory."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT
from layout import SCRIPTS

SAMPLING = ['src/interactive_conditional_samples.py', 'src/generate_unconditional_samples.py']


@pytest.mark.parametrize('script', [*(f'{name}.py' for name in SCRIPTS), *SAMPLING])
def test_a_script_finds_src_through_a_link(tmp_path, script):
    link = tmp_path / 'bin' / 'command'
    link.parent.mkdir()
    link.symlink_to(os.path.join(ROOT, script))
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    result = subprocess.run([sys.executable, link, '--help'], cwd=tmp_path, env=environment, capture_output=True, text=True,
                            check=False)
    assert (result.returncode, result.stderr) == (0, '')
    assert 'NAME' in result.stdout


def test_models_next_to_the_scripts_are_found_through_a_link_to_src(tmp_path):
    (tmp_path / 'src').symlink_to(os.path.join(ROOT, 'src'))
    command = [sys.executable, '-c', 'from command.models import find_model; print(find_model("tiny"))']
    found = subprocess.run(command, cwd=tmp_path, env=os.environ | {'PYTHONPATH': 'src'}, capture_output=True, text=True,
                           check=True)
    assert os.path.samefile(found.stdout.strip(), os.path.join(ROOT, 'models', 'tiny'))
