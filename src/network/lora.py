"""LoRA: small factors trained in place of a matrix. Sizes, first values.

Hu et al. 2021: a matrix w [n_in, n_out] stays as it is. What is trained are two factors, A [n_in, rank] and B [rank, n_out], and
(alpha / rank) A B is added to it. network.lora_layers computes with them; numpy alone is needed here.
"""

import dataclasses
import math

import numpy as np

from network.hparams import HParams

MATRICES = ('attn/c_attn', 'attn/c_proj', 'mlp/c_fc', 'mlp/c_proj')     # of each block
FACTORS = ('lora_a', 'lora_b')


@dataclasses.dataclass(frozen=True)
class Lora:
    """rank: columns of A and rows of B, at most n_embd. alpha: above 0.

    base_weights: the type in which the matrices that they are added to are in memory (see network.quantize).
    """
    rank: int
    alpha: float
    base_weights: str = 'float32'

    @property
    def scale(self) -> float:
        """What A B is multiplied by, so that a change of the rank does not ask for another learning rate."""
        return self.alpha / self.rank

    def shapes(self, hparams: HParams) -> dict[str, list[int]]:
        """Name -> shape of the factors of a model: model/h0/attn/c_attn/lora_a, model/h0/attn/c_attn/lora_b, ..."""
        weights = hparams.shapes()
        return {f'model/h{layer}/{matrix}/{factor}': [weights[f'model/h{layer}/{matrix}/w'][1], self.rank] if factor == 'lora_a'
                else [self.rank, weights[f'model/h{layer}/{matrix}/w'][2]]
                for layer in range(hparams.n_layer) for matrix in MATRICES for factor in FACTORS}

    def first_values(self, hparams: HParams, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Name -> value of new factors: B is zero, so that the model is the same as without them."""
        values = {}
        for name, shape in self.shapes(hparams).items():
            bound = first_bound(shape[0]) if name.endswith('lora_a') else 0
            values[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        return values

    def merged(self, w: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:  # [1, n_in, n_out], A, B -> [1, n_in, n_out]
        """The matrix that does what w and its factors do together."""
        return w + np.float32(self.scale) * (a @ b)


def first_bound(n_in: int) -> float:
    """A's first values lie between minus this and this, as in the paper's code, so that learning rates carry over."""
    return 1 / math.sqrt(n_in)


def is_factor(weight: str) -> bool:
    """Whether a weight, by its name, is a factor."""
    return weight.rpartition('/')[2] in FACTORS
