"""hparams.json: the five sizes of a GPT-2; its one fixed number."""

import dataclasses
import json
import os

from command.errors import UserError
from command.read_files import read_json

LAYER_NORM_EPSILON = 1e-5


@dataclasses.dataclass(unsafe_hash=True)
class HParams:
    """Sizes of a GPT-2 (Radford et al. 2019, table 2).

    n_vocab: tokens in the vocabulary; n_ctx: longest sequence in tokens; n_embd: features; n_head: attention heads,
    of n_embd / n_head features each; n_layer: blocks.

    They can be changed, because code of 2019 does so; nothing here does.

    Raises ValueError for a size that is not a positive int, or an n_embd that is not a multiple of n_head.
    """
    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    n_layer: int

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f'{name} must be a positive whole number, not {value!r}')
        if self.n_embd % self.n_head:
            raise ValueError(f'n_embd {self.n_embd} is not divisible by n_head {self.n_head}')

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.n_embd // self.n_head

    def override_from_dict(self, values: dict[str, int]) -> 'HParams':
        """Changes some sizes, as the HParams of 2019 did; returns self.

        Raises KeyError for an unknown name, ValueError like the constructor.
        """
        if unknown := [name for name in values if name not in vars(self)]:
            raise KeyError(unknown[0])
        vars(self).update(vars(dataclasses.replace(self, **values)))
        return self

    def shapes(self) -> dict[str, list[int]]:
        """Name -> shape of every variable, as in the published checkpoints."""
        n = self.n_embd
        block = {'ln_1/g': [n], 'ln_1/b': [n], 'attn/c_attn/w': [1, n, 3 * n], 'attn/c_attn/b': [3 * n],
                 'attn/c_proj/w': [1, n, n], 'attn/c_proj/b': [n], 'ln_2/g': [n], 'ln_2/b': [n],
                 'mlp/c_fc/w': [1, n, 4 * n], 'mlp/c_fc/b': [4 * n], 'mlp/c_proj/w': [1, 4 * n, n], 'mlp/c_proj/b': [n]}
        blocks = {f'model/h{layer}/{name}': shape for layer in range(self.n_layer) for name, shape in block.items()}
        return {'model/wpe': [self.n_ctx, n], 'model/wte': [self.n_vocab, n], **blocks, 'model/ln_f/g': [n],
                'model/ln_f/b': [n]}


def default_hparams() -> HParams:
    """The smallest published model, 124M parameters."""
    return HParams(n_vocab=50257, n_ctx=1024, n_embd=768, n_head=12, n_layer=12)


def load_hparams(directory: str) -> HParams:
    """Reads and checks `hparams.json` of a model directory. Raises UserError that names the file and the mistake."""
    path = os.path.join(directory, 'hparams.json')
    values, names = read_json(path), [field.name for field in dataclasses.fields(HParams)]
    if missing := [name for name in names if name not in values]:
        raise UserError(f'{path} lacks {", ".join(missing)}')
    if extra := [name for name in values if name not in names]:
        raise UserError(f'{path} has unknown entries: {", ".join(extra)}; expected only {", ".join(names)}')
    try:
        return HParams(**values)
    except ValueError as error:
        raise UserError(f'{path}: {error}') from None


def write_hparams(directory: str, hparams: HParams) -> None:
    """Writes `hparams.json`. Raises OSError."""
    with open(os.path.join(directory, 'hparams.json'), 'w', encoding='utf-8') as file:
        json.dump(dataclasses.asdict(hparams), file)


def check_vocabulary(hparams: HParams, n_tokens: int, directory: str, *, vocabulary: str = 'encoder.json',
                     size: str = 'n_vocab in hparams.json') -> None:
    """Raises UserError if the vocabulary in a directory has more tokens than n_vocab; fewer are accepted.

    vocabulary, size: how the error calls the two.
    """
    if n_tokens > hparams.n_vocab:
        raise UserError(f'{directory}: {vocabulary} has {n_tokens} tokens, but {size} is {hparams.n_vocab}')
