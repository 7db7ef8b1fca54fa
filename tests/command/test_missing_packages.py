"""A script that is started outside its environment."""

import os
import re
import subprocess
import sys

import pytest

from command import missing_packages
from conftest import ROOT, one_line_error

SCRIPTS = ['train.py', 'encode.py', 'download_model.py', 'create_model.py', 'evaluate.py', 'convert.py', 'serve.py',
           'src/interactive_conditional_samples.py', 'src/generate_unconditional_samples.py']


def test_the_packages_are_those_of_requirements_txt():
    with open(os.path.join(ROOT, 'requirements.txt'), encoding='utf-8') as file:
        names = {re.match(r'[\w-]*', line)[0] for line in file}
    assert set(missing_packages.PACKAGES.values()) == names


@pytest.mark.parametrize('script', SCRIPTS)
def test_every_script_names_the_package_and_what_to_do(script):
    """Without site-packages (-S), as where the environment is not active."""
    result = subprocess.run([sys.executable, '-S', os.path.join(ROOT, script)], cwd=ROOT, capture_output=True, text=True,
                            env={}, timeout=60, check=False)
    line = one_line_error(result)
    assert re.match(rf'{os.path.basename(script)}: the Python package [a-z-]+ is missing: .*(activate|pip install)', line)


@pytest.fixture
def explain(tmp_path, monkeypatch, capsys):
    """Handles an exception as at the top of a script in `tmp_path`: explain(exception) -> what is printed."""
    monkeypatch.setattr(missing_packages, 'PROJECT_DIR', str(tmp_path))
    monkeypatch.setattr(sys, 'argv', ['x/script.py'])

    def run(error):
        with pytest.raises(SystemExit) as ended:
            missing_packages._explain(type(error), error, None)
        assert ended.value.code == 2
        return capsys.readouterr().err
    return run


def test_the_environment_is_activated_or_created(explain, tmp_path, monkeypatch):
    error = ModuleNotFoundError('', name='google_crc32c')
    begin = 'script.py: the Python package google-crc32c is missing: '
    here = str(tmp_path)
    assert explain(error) == (f'{begin}python3 -m venv {here}/.venv && source {here}/.venv/bin/activate && '
                              f'pip install -r {here}/requirements.txt\n')
    (tmp_path / '.venv/bin').mkdir(parents=True)
    (tmp_path / '.venv/bin/activate').touch()
    assert explain(error) == f'{begin}source {here}/.venv/bin/activate\n'
    monkeypatch.chdir(tmp_path)
    assert explain(error) == f'{begin}source .venv/bin/activate\n'
    monkeypatch.setattr(sys, 'prefix', f'{here}/.venv')
    assert explain(error) == f'{begin}pip install -r requirements.txt\n'


def test_other_exceptions_keep_their_traceback(capsys):
    for error in (ModuleNotFoundError('no module', name='corpus.x'), ImportError('broken', name='numpy'), ValueError('wrong')):
        missing_packages._explain(type(error), error, None)
        assert capsys.readouterr().err.startswith(type(error).__name__)
