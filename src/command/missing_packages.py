"""A package that is not installed: one line that says how to get it."""

import os
import shlex
import sys
from types import TracebackType

from command.errors import fail
from command.models import PROJECT_DIR

# Module -> its name in requirements.txt.
PACKAGES = {'fire': 'fire', 'google_crc32c': 'google-crc32c', 'numpy': 'numpy', 'regex': 'regex', 'requests': 'requests',
            'tensorboard': 'tensorboard', 'tensorflow': 'tensorflow', 'tqdm': 'tqdm'}


def explain_missing_packages() -> None:
    """From now on, importing one of PACKAGES in vain ends this process with one line on stderr and status 2.

    For scripts, before they import a package: most do so at their top, where `errors.run` does not run yet.
    """
    sys.excepthook = _explain


def _explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """A sys.excepthook: Python shows an exception by it, and takes the exit status from a SystemExit that it raises."""
    if not isinstance(error, ModuleNotFoundError) or error.name not in PACKAGES:
        sys.__excepthook__(kind, error, traceback)
        return
    fail(f'the Python package {PACKAGES[error.name]} is missing: {_remedy()}')


def _remedy() -> str:
    """How to get the packages: activate the environment next to the scripts, or create it."""
    environment, requirements = (_shown(os.path.join(PROJECT_DIR, name)) for name in ('.venv', 'requirements.txt'))
    install = f'pip install -r {requirements}'
    if os.path.realpath(sys.prefix) == os.path.realpath(environment):
        return install      # it is active
    activate = f'source {environment}/bin/activate'
    if os.path.exists(os.path.join(environment, 'bin', 'activate')):
        return activate
    return f'python3 -m venv {environment} && {activate} && {install}'


def _shown(path: str) -> str:
    """The path as the shell takes it: relative if it is below the working directory."""
    relative = os.path.relpath(path)
    return shlex.quote(path if relative.startswith('..') else relative)
