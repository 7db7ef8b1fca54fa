"""The weights of a checkpoint, read one at a time; adapters merged.

TensorFlow is not needed: its own reader keeps the memory of the largest weight.
"""

import numpy as np

from network.lora import FACTORS
from storage import adapters, bundle, check


class Weights:
    """The weights of a checkpoint, read one at a time; those of one that holds adapters are merged with its base.

    shapes: name -> shape of all that can be read. Raises UserError if the checkpoint is damaged, or unless it has the weights
    `needed` (name -> shape), and no further blocks.
    """

    def __init__(self, prefix: str, needed: dict[str, list[int]]):
        self._prefix, self._adapters = prefix, adapters.read(prefix)
        self._entries, self._n_shards = bundle.read_index(prefix)
        self.shapes, self._base = {name: entry.shape for name, entry in self._entries.items()}, None
        if self._adapters and not needed.keys() <= self._entries.keys():
            others = {name: shape for name, shape in needed.items() if name not in self._entries}
            self._base = Weights(self._adapters.base, others)
            self.shapes = self._base.shapes | self.shapes
        check.check_shapes(prefix, self.shapes, needed)

    def merges(self, name: str) -> bool:
        """Whether a weight is that of a base, with the adapters of its matrix."""
        return self._base is not None and name not in self._entries

    def read(self, name: str) -> np.ndarray:
        """Raises UserError if the weight is damaged."""
        if self.merges(name):
            w, (a, b) = self._base.read(name), (f'{name.rpartition("/")[0]}/{factor}' for factor in FACTORS)
            is_matrix = name.endswith('/w') and a in self._entries
            return self._adapters.lora.merged(w, self.read(a), self.read(b)) if is_matrix else w
        return bundle.read_tensor(self._prefix, name, self._entries[name], self._n_shards)
