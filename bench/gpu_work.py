"""What bench/gpu.py does in processes of their own: each prints a line of JSON for each result.

    bench/gpu_work.py device | numbers DIR QUICK | contestant NAME

Not for itself: bench/gpu.py starts it, and ends it when its time is over.
"""

import contextlib
import json
import os
import sys
import tempfile
import time

LAUNCH = time.time()
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [os.path.join(ROOT, 'src')]      # first: it has a sample.py too
sys.path.append(ROOT)

SIZE = {'n_vocab': 50257, 'n_ctx': 1024, 'n_embd': 768, 'n_head': 12, 'n_layer': 12}
QUICK_SIZE = {'n_vocab': 1000, 'n_ctx': 64, 'n_embd': 64, 'n_head': 2, 'n_layer': 2}
SIZES = {'355M': {'n_embd': 1024, 'n_head': 16, 'n_layer': 24}, '1558M': {'n_embd': 1600, 'n_head': 25, 'n_layer': 48}}
# Of the gradients of a network of two blocks: name -> whether they are recomputed. On a CPU only the first is computed.
PRECISIONS = {'float32': False, 'recomputed': True, 'tf32': False, 'bfloat16': False, 'float16': False}
SAMPLED = ({'temperature': 0}, {'temperature': 0, 'repetition_penalty': 1.3}, {'top_k': 40}, {'top_p': 0.9})
PROMPTS = ('ROMEO:', 'To be, or not to be', '')
# Of the work of training, as bench/train.py names them.
FLAGS = ('precision', 'batch', 'recompute', 'compile', 'xla', 'lora_rank', 'base_weights')
LEAST_SECONDS, LEAST_STEPS = 1.0, 3     # of all steps together that a figure is the median of


def report(**values) -> None:
    print(json.dumps(values), flush=True)


def device() -> None:
    """Which GPU TensorFlow sees, and the error of a product on it; or why it sees none."""
    from command import device, tensorflow_setup
    tensorflow_setup.load_tensorflow()
    import numpy as np
    import tensorflow.compat.v1 as tf
    x = np.random.default_rng(0).normal(size=[256, 256]).astype(np.float32)
    with tensorflow_setup.open_session() as session:
        error = np.abs(session.run(tf.matmul(x, x)) - x.astype(np.float64) @ x).max()
    gpus = tf.config.list_physical_devices('GPU')
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    xla = None
    try:
        device.check_xla()
    except Exception as why:    # noqa: BLE001  (whatever it is, it is the result)
        xla = str(why)
    report(step='device', ok=bool(error < 1e-3), device=device.device(), gpus=len(gpus),
           capability=details.get('compute_capability'), tensorflow=tf.__version__,
           product_error=float(error), unused=device.unused_gpu(), xla=xla or 'works')


def numbers(directory: str, quick: bool) -> None:
    """Gradients, each in a file of `directory`, and texts as token ids, on the device that this process sees."""
    from command import tensorflow_setup
    tensorflow_setup.load_tensorflow()
    import tensorflow.compat.v1 as tf
    gpu = bool(tf.config.list_physical_devices('GPU'))
    for name in PRECISIONS if gpu else list(PRECISIONS)[:1]:
        with failures_reported(f'gradients, {name}'):
            write_gradients(os.path.join(directory, f'{name}.npz'), name, QUICK_SIZE if quick else SIZE)
    with failures_reported('sampling'):
        report(ids=sampled_ids())


@contextlib.contextmanager
def failures_reported(step: str):
    """Reports an error instead of raising it."""
    try:
        yield
    except Exception as error:      # noqa: BLE001  (the next part has its turn)
        report(step=step, ok=False, error=f'{type(error).__name__}: {error}'[:600])


def write_gradients(path: str, name: str, size: dict) -> None:
    """Loss and gradients of two blocks, with weights and tokens that are the same on every device."""
    import numpy as np
    import tensorflow.compat.v1 as tf

    import memory_saving_gradients
    import model
    from command.tensorflow_setup import open_session
    from storage import saver
    from training.optimizer import gradients_of
    precision = 'float32' if PRECISIONS[name] else name
    tf.config.experimental.enable_tensor_float_32_execution(precision == 'tf32')
    hparams, rng = model.HParams(**size | {'n_layer': 2}), np.random.default_rng(0)
    dtype = tf.float32 if precision == 'tf32' else tf.as_dtype(precision)
    scale = 1024.0 if precision == 'float16' else 1.0
    with tf.Graph().as_default() as graph, open_session() as session:
        tokens = tf.placeholder(tf.int32, [2, hparams.n_ctx])
        loss = model.loss(model.model(hparams, tokens, dtype=dtype), tokens, scale=None if scale == 1 else tf.constant(scale))
        weights = tf.trainable_variables()
        differentiate = memory_saving_gradients.gradients if PRECISIONS[name] else tf.gradients
        gradients, _ = gradients_of(loss, weights, graph.get_collection('checkpoints'), differentiate)
        saver.load(session, ((weight, np.float32(weight.op.name.endswith('/g')) + np.float32(0.02) * rng.standard_normal(
            weight.shape.as_list(), np.float32)) for weight in weights))
        values = session.run([loss, *(gradient / scale for gradient in gradients)],
                             {tokens: rng.integers(hparams.n_vocab, size=tokens.shape)})
    np.savez(path, **dict(zip(['loss', *(weight.op.name.replace('/', '.') for weight in weights)], values)))


def sampled_ids(length: int = 90) -> list:
    """For each of SAMPLED what the small model that ships with the toolkit writes after each of PROMPTS, as token ids."""
    from generator import Generator
    from sampling.continuation import SamplingSettings
    generator, found = Generator(os.path.join(ROOT, 'models', 'tiny')), []
    for settings in SAMPLED:
        texts = [generator.continuation(prompt, SamplingSettings(length=length, stop_at_eot=False, **settings), [1, i])
                 for i, prompt in enumerate(PROMPTS)]
        found.append([list(map(int, text.ids)) for text in generator.finish(texts, 2)])
    return found


def contestant(name: str) -> None:
    """Does the work that each line of standard input asks for, and prints its figures. name: 'this toolkit' or 'PyTorch'."""
    report(ready=True)
    for line in sys.stdin:
        work = json.loads(line)
        try:
            figures = (training if work['step'] == 'training' else writing)(name, work)
        except Exception as error:      # noqa: BLE001  (the next work has its turn)
            figures = {'error': f'{type(error).__name__}: {error}'[:600]}
        report(**figures)


def size_of(work: dict) -> dict:
    return QUICK_SIZE if work['quick'] else SIZE | SIZES.get(work['size'], {})


def training(name: str, work: dict) -> dict:
    """The figures of training steps; bench/train.py makes them."""
    from bench import train
    size = size_of(work)
    flags = {key: work[key] for key in FLAGS if key in work}
    reset, peak = memory_of(name)
    reset()
    with graph_of(name):
        step = (train.ours if name == 'this toolkit' else train.torch)(
            {'kind': 'ours', 'sequence': size['n_ctx'], **size, **flags})
        seconds, first = timed(step)
    figures = {'tokens_per_second': work['batch'] * size['n_ctx'] / seconds, 'ms': 1e3 * seconds, 'first_s': first,
               'peak_gb': peak()}
    if name == 'this toolkit':
        step.close()
    return figures


def writing(name: str, work: dict) -> dict:
    """The figures of texts; bench/sample.py writes them. ms: of a token of all texts."""
    from bench import sample
    from network.hparams import HParams
    hparams, length = HParams(**size_of(work)), work['length']
    reset, peak = memory_of(name)
    reset()
    with tempfile.TemporaryDirectory() as directory, graph_of(name):
        if name == 'this toolkit':
            sample.make_model(directory, hparams)
            write = sample.writer(directory, work['precision'], hparams)
        else:
            write = sample.hugging_face(None, hparams)
        seconds, first = timed(lambda: write(work['batch'], length))
    return {'tokens_per_second': work['batch'] * length / seconds, 'ms': 1e3 * seconds / length, 'first_s': first,
            'peak_gb': peak()}


def graph_of(name: str):
    """A graph of its own for work in TensorFlow, so that it goes with all that it took."""
    if name != 'this toolkit':
        return contextlib.nullcontext()
    from command import tensorflow_setup
    tensorflow_setup.load_tensorflow()
    import tensorflow.compat.v1 as tf
    return tf.Graph().as_default()


def memory_of(name: str) -> tuple:
    """A function that begins to count the memory of the GPU, and one that returns its peak in GB; None without a GPU."""
    if name == 'this toolkit':
        from command import tensorflow_setup
        tensorflow_setup.load_tensorflow()
        import tensorflow.compat.v1 as tf
        gpu, count = bool(tf.config.list_physical_devices('GPU')), tf.config.experimental
        reset, peak = (lambda: count.reset_memory_stats('GPU:0')), lambda: count.get_memory_info('GPU:0')['peak'] / 1e9
    else:
        import torch
        gpu = torch.cuda.is_available()
        reset, peak = torch.cuda.reset_peak_memory_stats, lambda: torch.cuda.max_memory_allocated() / 1e9
    return (reset, peak) if gpu else (lambda: None, lambda: None)


def timed(step) -> tuple[float, float]:
    """The median seconds of some steps after two that do not count, and the seconds of the first."""
    start = time.time()
    step()
    first = time.time() - start
    step()
    times = []
    while len(times) < LEAST_STEPS or sum(times) < LEAST_SECONDS and len(times) < 50:
        start = time.time()
        step()
        times.append(time.time() - start)
    return sorted(times)[len(times) // 2], first


if __name__ == '__main__':
    kind, *arguments = sys.argv[1:]
    if kind == 'numbers':
        numbers(arguments[0], arguments[1] == 'quick')
    else:
        {'device': device, 'contestant': contestant}[kind](*arguments)
