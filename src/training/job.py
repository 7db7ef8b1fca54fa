"""A Job: a training run that is ready to start."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import TextIO

import numpy as np

from corpus.batches import draw_batch
from load_dataset import Sampler
from storage.adapters import Adapters
from storage.model_directory import Model
from storage.run_state import RunState
from training import record
from training.settings import Settings
from workers.agreement import agree

# Flags that all workers must share: those that change what a run computes, or by which each decides what to do next.
ALIKE = (*(flag for flag in record.MATHEMATICS if flag != 'model_name'), 'memory_saving_gradients', 'max_steps', 'epochs',
         'patience', 'val_every', 'val_batch_size', 'val_batch_count', 'reduce_precision')


@dataclasses.dataclass
class Job:
    """A training run that is ready to start."""
    settings: Settings
    model: Model                # that the run fine-tunes: its sizes and encoder
    checkpoint: str | None      # prefix to restore from; None for workers that get their weights from worker 0
    state: RunState             # of the checkpoint if it is one of this run, else that of a new run
    lock: TextIO | None         # on the run directory, to be closed at the end; None if this process writes nothing
    record: dict                # the content of settings.json
    train: Sampler
    validation: list[np.ndarray]    # batches [batch, sequence], the same ones each time
    noise: np.random.Generator
    dropout: np.random.Generator    # of the seeds of masks
    contexts: Sampler               # draws the token that each sample starts with
    sampling: np.random.Generator
    initial: np.random.Generator        # draws the first values of adapters
    adapters: Adapters | None = None    # what the adapters that the run trains are added to, as far as this worker restores them
    prompt: list[int] | None = None     # the tokens of --sample_prompt, with which each sample starts instead
    encoded_bytes: int = 0              # of the tokens that the run's directory keeps

    def generators(self) -> dict[str, np.random.Generator]:
        """The random generators of a run, by the names under which its state has them."""
        return {'data': self.train.rng, 'noise': self.noise, 'dropout': self.dropout, 'contexts': self.contexts.rng,
                'sampling': self.sampling}

    def set_generators(self) -> None:
        """Restores the random generators from the state."""
        for name, generator in self.generators().items():
            if name in self.state.generators:
                generator.bit_generator.state = self.state.generators[name]

    def sample_contexts(self, n: int) -> np.ndarray:
        """What the next n samples start with, [n, tokens]: --sample_prompt, or a random token of the corpus."""
        return draw_batch(self.contexts, n, 1) if self.prompt is None else np.tile(self.prompt, (n, 1))

    def close(self) -> None:
        """Releases the lock."""
        if self.lock:
            self.lock.close()

    def finished(self) -> str | None:
        """Why the run has ended, in words; None if it has not."""
        settings, state = self.settings, self.state
        if settings.max_steps and state.step >= settings.max_steps:
            return f'--max_steps {settings.max_steps} reached'
        if settings.epochs and state.tokens >= settings.epochs * self.train.total_size:
            return f'--epochs {settings.epochs:g} reached'
        if settings.patience and state.not_better >= settings.patience:
            return (f'--patience {settings.patience} reached: no validation loss below {state.best_loss:.4f} since step '
                    f'{state.best_step}')
        return None

    def agree(self, gather: Callable[[str], list[str]]) -> None:
        """Checks that all workers do the same work, and takes the state and random generators of worker 0.

        gather: this worker's text -> the texts of all workers. Raises UserError that names what differs.
        """
        validation = hashlib.sha256(b''.join(batch.tobytes() for batch in self.validation)).hexdigest()
        corpus = self.record['corpus']
        common = {f'--{flag}': getattr(self.settings, flag) for flag in ALIKE} | {
            'the model': vars(self.model.hparams), 'the corpus': f'{corpus["tokens"]} tokens ({corpus["sha256"][:8]})',
            'the weights of the data sets': record.weights_in_words(corpus.get('weights', [])),
            'the validation data': validation[:8],
            'the version of TensorFlow': self.record['versions'].get('tensorflow')}
        generators = {name: generator.bit_generator.state for name, generator in self.generators().items()}
        state = dataclasses.replace(self.state, generators=generators)
        self.state = RunState(**agree(gather, common, dataclasses.asdict(state)))
        self.set_generators()
