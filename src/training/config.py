"""--config FILE: flags from a TOML file, or from a run's settings.json."""

import argparse
from collections.abc import Sequence

from command.errors import UserError
from command.flags import Parser
from command.read_files import read_any, read_json
from training.settings import DEFAULT_SAMPLE_LENGTH, DEFAULT_WEIGHT_DECAY

# Flags that are about one start of a run, or one of its processes: a file would give them to the next start too.
OF_A_START = ('config', 'restore_from', 'overwrite', 'dry_run', 'measure_steps', 'local_workers', 'max_restarts', 'workers',
              'worker_index', 'slurm')
RESOLVED = {'weight_decay': DEFAULT_WEIGHT_DECAY, 'sample_length': DEFAULT_SAMPLE_LENGTH}   # a run's record has them in any case


def parse_with_config(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags of a command line, which override those of the file that its --config names.

    Raises UserError that names the file and the flag if one is unknown there, has a value that the command line would refuse,
    or another type. Relative paths in the file are relative to the working directory, as on the command line.
    """
    with parser.nothing_required():
        path = parser.parse_args(arguments).config
    if path is not None:
        parser.set_values(read_config(path), path)
    return parser.parse_args(arguments)


def read_config(path: str) -> dict[str, object]:
    """The flags in a file, by their names without dashes: of a run if it ends in .json, else in TOML. Raises UserError."""
    if path.endswith('.json'):
        return _flags_of_run(path)
    flags = _read_toml(path)
    for name, value in flags.items():
        if isinstance(value, dict):
            raise UserError(f'{path}: [{name}] is a table: write all flags without tables, as in: batch_size = 4')
        if name in OF_A_START:
            raise UserError(f'{path}: {name} is for one start of a run: give --{name} on the command line')
    return flags


def _read_toml(path: str) -> dict:
    try:
        import tomllib
    except ImportError:
        raise UserError(f'--config {path}: reading TOML needs Python 3.11 or newer') from None
    try:
        return tomllib.loads(read_any(path).decode('utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not TOML: {error}') from None


def _flags_of_run(path: str) -> dict[str, object]:
    """The flags of a run's settings.json, so that they make the same run again.

    Left out are OF_A_START, --processes, which depends on the machine, and defaults that the record has in place of a flag that
    was not given, and which another flag might not allow.
    """
    flags = _record(path)['flags']
    left_out = {*OF_A_START, 'processes', *(name for name, value in flags.items() if value is None)}
    left_out |= {name for name, default in RESOLVED.items() if flags.get(name) == default}
    if not flags.get('val_every') and not flags.get('val_split'):
        left_out.add('val_every')
    return {name: value for name, value in flags.items() if name not in left_out}


def not_taken(args: argparse.Namespace, worker_count: int) -> list[str]:
    """What the run of the settings.json that --config names had, and this one has not, in words; [] for any other file."""
    path = args.config
    if path is None or not path.endswith('.json'):
        return []
    record = _record(path)
    start, workers = record['flags'].get('restore_from', 'latest'), record.get('workers', 1)
    missing = []
    if start not in ('latest', 'fresh', args.restore_from) and args.run_name != record['flags'].get('run_name'):
        missing.append(f'was started with --restore_from {start}: give that too for the same start')
    if workers != worker_count:
        missing.append(f'had {workers} workers, this one has {worker_count}: see --local_workers and --workers')
    return [f'The run of {path} {what}' for what in missing]


def _record(path: str) -> dict:
    record = read_json(path)
    if not isinstance(record.get('flags'), dict):
        raise UserError(f'{path} is not the settings.json of a run: it has no "flags"; write flags of your own into a TOML file')
    return record
