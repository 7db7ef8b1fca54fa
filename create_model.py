#!/usr/bin/env python3
"""Creates a model with random weights, or from a run's trained weights.

Without --from_run, its vocabulary is learned from your text, and its sizes are flags.
"""

import argparse
import dataclasses
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), 'src'))

from command.missing_packages import explain_missing_packages

if __name__ == '__main__':
    explain_missing_packages()

from command import models
from command.errors import UserError, check_utf8, run
from command.flags import Parser, non_negative_int, path, positive_int
from command.machine import available_memory
from corpus.flags import add_dataset_flag, add_text_flags, text_format
from load_dataset import read_texts
from network.hparams import HParams, default_hparams, write_hparams
from storage.model_directory import Model, new_directory, open_model
from training.memory import FLOAT, parameters
from vocabulary.files import write_vocabulary
from vocabulary.learn import SMALLEST_VOCABULARY, learn_vocabulary

EXAMPLES = ('./create_model.py small --dataset corpus.txt --vocab_size 5000 --n_layer 4 --n_head 4 --n_embd 256',
            './create_model.py mine --from_run run1')


def parse_flags() -> argparse.Namespace:
    default = default_hparams()
    parser = Parser(description=__doc__, examples=EXAMPLES)
    parser.add_argument('name', metavar='NAME', help='of the new model, a directory in --models_dir; before --dataset')
    parser.add_argument('--models_dir', metavar='DIR', type=path, default='models', help='the directory of the models')
    parser.add_argument('--checkpoint_dir', metavar='DIR', type=path, default=models.CHECKPOINT_DIR,
                        help='the directory of the runs')
    source = parser.add_argument_group('source').add_mutually_exclusive_group(required=True)
    add_dataset_flag(source, 'text to learn the vocabulary from')
    source.add_argument('--from_run', metavar='RUN', help='instead take the weights of this run in --checkpoint_dir, without '
                        'the optimizer\'s state: of RUN/best, RUN/latest or RUN/STEP (default: the best with --keep_best, else '
                        'the newest)')
    add_text_flags(parser.add_argument_group('text', 'with --dataset'))
    size = parser.add_argument_group('size', 'with --dataset; by default that of 124M')
    size.add_argument('--vocab_size', metavar='N', type=positive_int, default=default.n_vocab,
                      help='tokens to learn; fewer if the text is too small for as many')
    for name, meaning in (('n_ctx', 'longest sequence in tokens'), ('n_embd', 'features, a multiple of --n_head'),
                          ('n_head', 'attention heads'), ('n_layer', 'blocks')):
        size.add_argument(f'--{name}', metavar='N', type=positive_int, default=getattr(default, name), help=meaning)
    other = parser.add_argument_group('other')
    other.add_argument('--seed', metavar='N', type=non_negative_int,
                       help='for the same random weights each time (default: different ones each time)')
    return parser.parse_args()


def check_memory(hparams: HParams) -> None:
    """Raises UserError for a model whose weights alone do not fit in memory."""
    needed, available = FLOAT * sum(parameters(hparams).values()), available_memory()
    if available is not None and needed > available:
        raise UserError(f'a model of these sizes needs {needed / 1e9:,.1f} GB for its weights, {available / 1e9:,.1f} GB are '
                        'available: give a smaller --n_embd, --n_layer or --n_ctx')


def settings_from_text(args: argparse.Namespace, directory: str) -> HParams:
    """Learns a vocabulary, writes it to `directory`, and returns the sizes with the n_vocab that it has."""
    if args.vocab_size < SMALLEST_VOCABULARY:
        raise UserError(f'--vocab_size {args.vocab_size} is too small: 256 bytes and <|endoftext|> make '
                        f'{SMALLEST_VOCABULARY} tokens')
    try:
        hparams = HParams(args.vocab_size, args.n_ctx, args.n_embd, args.n_head, args.n_layer)
    except ValueError as error:
        raise UserError(f'invalid sizes: {error}') from None
    check_memory(dataclasses.replace(hparams, n_vocab=SMALLEST_VOCABULARY))     # n_vocab may become smaller than --vocab_size
    texts = read_texts(args.dataset, **vars(text_format(args)))
    ids, merges = learn_vocabulary(texts, args.vocab_size)
    if len(ids) < args.vocab_size:
        print(f'The text has no pair of tokens left that occurs twice: n_vocab is {len(ids)}, not {args.vocab_size}')
    write_vocabulary(directory, ids, merges)
    return dataclasses.replace(hparams, n_vocab=len(ids))


def settings_from_run(run: Model, directory: str) -> HParams:
    """Copies a run's vocabulary to `directory`. Returns its sizes."""
    for name in models.vocabulary_files(run.directory):
        shutil.copyfile(os.path.join(run.directory, name), os.path.join(directory, name))
    return run.hparams


def write_weights(hparams: HParams, directory: str, seed: int | None, checkpoint_prefix: str | None) -> int:
    """Writes `model.ckpt`: random weights, or those of a checkpoint. Returns the number of parameters.

    Raises UserError if memory or disk space runs out.
    """
    # Late: TensorFlow takes seconds to import, which a mistake in the flags should not cost.
    from command.tensorflow_setup import load_tensorflow, note_loading, open_session
    note_loading()
    load_tensorflow()
    import tensorflow.compat.v1 as tf

    import model
    from storage import saver
    with tf.Graph().as_default(), open_session() as session:
        tf.set_random_seed(seed)
        model.model(hparams, tf.placeholder(tf.int32, [None, None]))
        try:
            session.run(tf.global_variables_initializer())
        except tf.errors.ResourceExhaustedError:
            raise UserError('out of memory: give a smaller --n_embd, --n_layer, --n_ctx or --vocab_size') from None
        saver.save_model(session, directory, checkpoint_prefix)
        return sum(v.shape.num_elements() for v in tf.trainable_variables())


def main() -> None:
    args = parse_flags()
    target = check_utf8(os.path.join(args.models_dir, args.name))
    run = open_model(models.find_run(args.from_run, args.checkpoint_dir)) if args.from_run else None
    with new_directory(target) as unfinished:
        hparams = settings_from_run(run, unfinished) if run else settings_from_text(args, unfinished)
        write_hparams(unfinished, hparams)
        parameters = write_weights(hparams, unfinished, args.seed, run and run.checkpoint)
    print(f'{target}: {parameters} parameters, {hparams.n_vocab} tokens')


if __name__ == '__main__':
    run(main)
