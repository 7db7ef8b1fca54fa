"""The graph of a training run: updates, validation loss, samples."""

import numpy as np
import tensorflow.compat.v1 as tf

import model
import sample
from network.dropout import Dropout
from network.gradients import compiling
from network.lora import is_factor
from storage import checkpoints, saver
from training.job import Job
from training.optimizer import TrainStep
from training.settings import is_trained
from workers.collectives import Workers


class TrainingGraph:
    """All that a run computes, in a graph and `session` of its own. Only worker 0 has the part that samples."""

    def __init__(self, job: Job, workers: Workers):
        self._job, self._settings, self._workers = job, job.settings, workers
        with tf.Graph().as_default() as graph:
            self._build_update()
            if self._settings.val_every:
                self._build_validation()
            if self._settings.sample_every and workers.leads:
                self._build_samples()
            self.session = workers.session(graph)

    def _build_update(self) -> None:
        settings = self._settings
        tf.config.experimental.enable_tensor_float_32_execution(settings.precision == 'tf32')
        self._inputs, self._labels = (tf.placeholder(tf.int32, [settings.batch_size, settings.seq_length]) for _ in range(2))
        recompute = settings.memory_saving_gradients
        with compiling(False if settings.xla is None and recompute else settings.xla):
            output = self._model(self._inputs, self._dropout())
            self._weights = tf.global_variables()
            trained = [v for v in self._weights if is_trained(v.op.name, settings, self._job.model.hparams.n_layer)]
            scale = tf.placeholder(tf.float32, [], 'loss_scale') if settings.precision == 'float16' else None
            loss = model.loss(output, self._labels, wte_gradient=any(v.op.name.endswith('/wte') for v in trained), scale=scale)
            self._step = TrainStep(loss, trained, optimizer=settings.optimizer, accumulate=settings.accumulate_gradients,
                                   memory_saving=recompute, clip_norm=settings.clip_norm,
                                   weight_decay=settings.weight_decay,
                                   scale_parameter=settings.learning_rate_schedule == 'relative', workers=self._workers,
                                   reduce_dtype=tf.as_dtype(settings.reduce_precision), scale=scale)

    def _dropout(self) -> Dropout | None:
        """Dropout by a seed that is fed with each batch; None, and nothing in the graph, if --dropout is 0."""
        self._seed = tf.placeholder(tf.int64, [2], 'dropout_seed') if self._settings.dropout else None
        return Dropout(self._settings.dropout, self._seed) if self._settings.dropout else None

    def _build_validation(self) -> None:
        self._validation_batch = tf.placeholder(tf.int32, [self._settings.val_batch_size, self._settings.seq_length])
        self._validation_loss = model.loss(self._model(self._validation_batch), self._validation_batch, differentiable=False)

    def _build_samples(self) -> None:
        settings = self._settings
        self._context = tf.placeholder(tf.int32, [None, len(self._job.prompt or [0])])
        self._uniform = tf.placeholder(tf.float32, [None, settings.sample_length])
        self._samples = sample.sample_sequence(
            hparams=self._job.model.hparams, length=settings.sample_length, context=self._context, uniform=self._uniform,
            temperature=settings.sample_temperature, top_k=settings.top_k, top_p=settings.top_p, lora=settings.lora)

    def _model(self, tokens, dropout: Dropout | None = None) -> dict:
        dtype = tf.float32 if self._settings.precision == 'tf32' else tf.as_dtype(self._settings.precision)
        return model.model(self._job.model.hparams, tokens, dtype=dtype, dropout=dropout, lora=self._settings.lora)

    def saved_variables(self) -> list:
        """What a checkpoint of the run holds: weights and the optimizer's state; of a run of adapters, not the base's weights."""
        frozen = {v.op.name for v in self._weights if self._settings.lora and not is_factor(v.op.name)}
        return [v for v in self.session.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES) if v.op.name not in frozen]

    def restore(self) -> None:
        """Restores the weights from the job's checkpoint, and the optimizer's state if it is there; else initializes that.

        With adapters, their base is restored first; new ones are initialized.
        """
        checkpoint, adapters, weights = self._job.checkpoint, self._job.adapters, self._weights
        print(f'Loading checkpoint {checkpoint}', flush=True)
        self._step.initialize(self.session)
        if adapters:
            frozen, weights = ([v for v in self._weights if is_factor(v.op.name) == trained] for trained in (False, True))
            if self._settings.base_weights == 'float32':
                saver.restore(self.session, adapters.base, frozen)
            else:
                saver.restore_smaller(self.session, adapters.base, frozen)
            if checkpoint == adapters.base:
                values = adapters.lora.first_values(self._job.model.hparams, self._job.initial)
                saver.load(self.session, ((weight, values[weight.op.name]) for weight in weights))
                return
        complete = saver.restore(self.session, checkpoint, weights, self.saved_variables())
        if not complete and checkpoints.checkpoint_step(checkpoint):        # a model's checkpoint holds none anyway
            print(f'{checkpoint} holds no state of the optimizer {self._settings.optimizer}: it starts from scratch')

    def initialize(self) -> None:
        """Gives all variables the values of a new model, with random weights."""
        self.session.run([weight.initializer for weight in self._weights])
        self._step.initialize(self.session)

    def broadcast(self) -> None:
        """Gives all workers the values that worker 0 has."""
        self._workers.broadcast(self.session, self.session.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES))

    def update(self, batches: list[tuple], rate: float, stop: bool, scale: float = 1.0) -> tuple[float, float, bool]:
        """Makes one update from (inputs, labels, seed), one for each gradient to accumulate.

        Inputs and labels are [batch, sequence]; the seed [2] is that of the dropout, and ignored without it. The scale is that of
        the loss in float16, and ignored without that. Returns the mean loss, the gradient's norm, and whether any worker set
        `stop`. In float16, nothing is updated if the norm is NaN or infinite.
        """
        feeds = [{self._inputs: inputs, self._labels: labels} | ({} if self._seed is None else {self._seed: seed})
                 for inputs, labels, seed in batches]
        return self._step.run(self.session, feeds, rate, stop=stop, scale=scale)

    def validation_loss(self, batch: np.ndarray) -> float:
        """Mean loss over a batch [val_batch_size, sequence], in nats per token."""
        return self.session.run(self._validation_loss, {self._validation_batch: batch})

    def sample(self, contexts: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Continues contexts [n, tokens] by sample_length: [n, tokens + sample_length]. uniform [n, sample_length]: in [0, 1)."""
        return self.session.run(self._samples, {self._context: contexts, self._uniform: uniform})
