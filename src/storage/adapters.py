"""Checkpoints of adapters alone, and adapter.json, which names their base.

A run's directory has one adapter.json: the checkpoint that the run started from, its base, with a checksum, and the rank and
alpha of network.lora. The base is a model, or a checkpoint of another run; if that has adapters too, it has a base itself.
TensorFlow is not needed here: storage.saver reads the weights.
"""

import dataclasses
import hashlib
import json
import os

from command.errors import UserError
from command.read_files import read_json
from network.hparams import HParams
from network.lora import FACTORS, Lora, is_factor
from storage import bundle, check, run_state
from storage.run_directory import ADAPTER

WEIGHTS = {'wte', 'wpe', 'g', 'b', 'w', *FACTORS}     # how the names of weights end; those of an optimizer's state end otherwise


@dataclasses.dataclass(frozen=True)
class Adapters:
    """What a run's factors are added to. base: prefix of its checkpoint; checksum: of its weights."""
    lora: Lora
    base: str
    checksum: str

    def text(self, directory: str) -> str:
        """The content of adapter.json in a run's directory. Its base is found again if both are moved together."""
        return json.dumps({'base': self.base, 'base_from_here': os.path.relpath(self.base, directory), 'checksum': self.checksum,
                           'rank': self.lora.rank, 'alpha': self.lora.alpha}, indent=1) + '\n'


def on(prefix: str, lora: Lora) -> Adapters:
    """New adapters on a checkpoint. Raises UserError if it, or what it is based on, cannot be read."""
    return Adapters(lora, prefix, checksum(prefix))


def has_factors(prefix: str) -> bool:
    """Whether a checkpoint holds factors, and so no other weights. Raises UserError for a damaged index."""
    return any(map(is_factor, bundle.read_index(prefix)[0]))


def read(prefix: str) -> Adapters | None:
    """What the factors of a checkpoint are added to; None for a checkpoint of complete weights.

    Raises UserError if adapter.json is missing or damaged, or if the base is missing or has changed.
    """
    if not has_factors(prefix):
        return None
    directory = os.path.dirname(prefix)
    path = os.path.join(directory, ADAPTER)
    if not os.path.exists(path):
        raise UserError(f'{prefix} holds adapters, and {path}, which names their base model, is missing: copy it there again')
    content = read_json(path)
    try:
        lora = Lora(int(content['rank']), float(content['alpha']))
        base, expected = str(content['base']), str(content['checksum'])
        nearby = os.path.normpath(os.path.join(directory, str(content.get('base_from_here', base))))
    except (KeyError, TypeError, ValueError):
        raise UserError(f'{path} is damaged: it lacks base, checksum, rank or alpha') from None
    found = [place for place in dict.fromkeys([base, nearby]) if os.path.isfile(f'{place}.index')]
    if not found:
        raise UserError(f'the base model of {prefix}, {base}, is missing: put it there again, or write where it is into {path}')
    for place in found:
        if checksum(place) == expected:
            return Adapters(lora, place, expected)
    raise UserError(f'the base model of {prefix}, {found[0]}, has changed: its weights are not those that the adapters were '
                    f'trained on; put those there again, or write where they are into {path}')


def checksum(prefix: str) -> str:
    """A checksum of the weights of a checkpoint, by the checksums in its index, and of what it is based on."""
    stored, _ = bundle.read_index(prefix)
    weights = [[name, entry.shape, entry.dtype, (entry.checksum or b'').hex()] for name, entry in sorted(stored.items())
               if name.rpartition('/')[2] in WEIGHTS]
    below = read(prefix)
    content = [weights, below and [below.lora.rank, below.lora.alpha, below.checksum]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_weights(prefix: str, hparams: HParams) -> None:
    """Raises UserError unless a checkpoint, with its base if it holds adapters, has sound weights of a model of these sizes.

    Reads all weights once, as check.check_checkpoint does.
    """
    adapters = read(prefix)
    if adapters is None:
        check.check_checkpoint(prefix, hparams.shapes())
        return
    check.check_checkpoint(prefix, adapters.lora.shapes(hparams))
    check_files(adapters.base)
    check_weights(adapters.base, hparams)


def check_files(prefix: str) -> None:
    """Raises UserError if the files of a run's checkpoint do not match the checksums of its state, nor TensorFlow's own."""
    try:
        run_state.read(prefix)
    except UserError:
        if not check.is_sound(prefix):
            raise
