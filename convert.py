#!/usr/bin/env python3
"""Converts models to Hugging Face's format and back, weight by weight.

Each COMMAND has its own --help.
"""

import argparse
import os
import sys
from collections.abc import Iterator

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), 'src'))

from command.missing_packages import explain_missing_packages

if __name__ == '__main__':
    explain_missing_packages()

import numpy as np
from tqdm import tqdm

from command import atomic_files, models
from command.errors import UserError, check_utf8, run
from command.flags import Parser, path
from encoder import load_encoder
from network.hparams import HParams, check_vocabulary, write_hparams
from storage import bundle, huggingface, huggingface_tokenizer, safetensors
from storage.model_directory import new_directory, open_model
from training import model_card

EXAMPLES = ('./convert.py to_hf run1 mine-hf',
            './convert.py from_hf gpt2-hf mine')


def parse_flags() -> argparse.Namespace:
    parser = Parser(description=__doc__, examples=EXAMPLES)
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    export = commands.add_parser('to_hf', help='MODEL_OR_RUN OUT: write a Hugging Face directory',
                                 description='Writes a model or a run as a Hugging Face directory, which AutoModelForCausalLM '
                                             'and AutoTokenizer load.', examples=EXAMPLES[:1])
    export.add_argument('source', metavar='MODEL_OR_RUN', type=path, help='a model in --models_dir, a run in '
                        '--checkpoint_dir, or the path of either; RUN/best, RUN/latest and RUN/STEP name a checkpoint (default: '
                        'the best of a run with --keep_best, else the newest)')
    export.add_argument('output', metavar='OUT', type=path, help='the directory to write; it must not exist, or be empty')
    export.add_argument('--checkpoint_dir', metavar='DIR', type=path, default=models.CHECKPOINT_DIR,
                        help='the directory of the runs')
    export.set_defaults(convert=to_hf)
    import_ = commands.add_parser('from_hf', help='DIR NAME: make a model from a Hugging Face directory',
                                  description='Makes a model from a Hugging Face directory of GPT-2; needs the safetensors '
                                              'package.', examples=EXAMPLES[1:])
    import_.add_argument('source', metavar='DIR', type=path,
                         help='a directory with config.json, model.safetensors, and the tokenizer\'s files')
    import_.add_argument('output', metavar='NAME', help='of the new model, a directory in --models_dir')
    import_.set_defaults(convert=from_hf)
    for command in (export, import_):
        command.add_argument('--models_dir', metavar='DIR', type=path, default='models', help='the directory of the models')
    return parser.parse_args()


def find_source(name: str, models_dir: str, checkpoint_dir: str) -> str:
    """The path of a model, a run or a checkpoint, by path or name. Raises UserError if there is none, or one of each."""
    if os.path.isfile(os.path.join(models.directory_of(name), 'hparams.json')):
        return name
    found, errors = [], []
    for find in (lambda: models.find_model(name, models_dir), lambda: models.find_run(name, checkpoint_dir)):
        try:
            found.append(find())
        except UserError as error:
            errors.append(str(error))
    if not found:
        raise UserError('; '.join(errors))
    if len(found) > 1:
        raise UserError(f'{name} is a model and a run: give the path, {" or ".join(found)}')
    return found[0]


def progress_bar(tensors: list) -> tqdm:
    return tqdm(tensors, unit='weight', delay=1, leave=False, disable=None)


def to_hf(args: argparse.Namespace) -> None:
    source = open_model(find_source(args.source, args.models_dir, args.checkpoint_dir))
    tensors = sorted(huggingface.tensors(source.hparams), key=lambda tensor: tensor.hf_name)
    with new_directory(args.output) as unfinished:
        huggingface_tokenizer.write_tokenizer(unfinished, source.directory, source.hparams.n_ctx, source.encoder)
        huggingface.write_config(unfinished, source.hparams, source.encoder.end_of_text)
        card = model_card.model_card(source.directory, source.checkpoint)
        atomic_files.write_text(os.path.join(unfinished, 'README.md'), card)
        with open(os.path.join(unfinished, huggingface.WEIGHTS), 'wb') as file:
            safetensors.write_safetensors(file, {tensor.hf_name: tensor.hf_shape for tensor in tensors},
                                          checkpoint_weights(source.checkpoint, tensors))
    print(f'{args.output}: {len(tensors)} weights of {source.checkpoint}')


def checkpoint_weights(prefix: str, tensors: list[huggingface.Tensor]) -> Iterator[np.ndarray]:
    """Yields the weights in a checkpoint, read one by one. Raises UserError if one is damaged."""
    # Late: TensorFlow takes seconds to import, which a mistake in the flags should not cost.
    from command.tensorflow_setup import load_tensorflow, note_loading
    note_loading()
    load_tensorflow()

    from storage.saver import Weights
    weights = Weights(prefix, {tensor.name: tensor.shape for tensor in tensors})
    for tensor in progress_bar(tensors):
        yield weights.get_tensor(tensor.name)


def from_hf(args: argparse.Namespace) -> None:
    if not os.path.isdir(args.source):
        raise UserError(f'{args.source} is not a directory; expected one with config.json and model.safetensors, as '
                        'Hugging Face\'s save_pretrained writes it')
    hparams = huggingface.read_config(args.source)
    tokenizer = huggingface_tokenizer.read_tokenizer(args.source, hparams.n_vocab)
    weights = huggingface.Weights(args.source, hparams)
    tensors = sorted(huggingface.tensors(hparams))
    target = check_utf8(os.path.join(args.models_dir, args.output))
    with new_directory(target) as unfinished:
        huggingface_tokenizer.write_model_files(unfinished, tokenizer)
        check_encoder(unfinished, args.source, hparams)
        write_hparams(unfinished, hparams)
        prefix = os.path.join(unfinished, 'model.ckpt')
        with open(f'{prefix}.data-00000-of-00001', 'wb') as data, open(f'{prefix}.index', 'wb') as index:
            bundle.write_bundle(data, index, {tensor.name: tensor.shape for tensor in tensors},
                                map(weights.read, progress_bar(tensors)))
        with open(f'{prefix}.meta', 'wb') as file:
            file.write(meta_graph(hparams))
        atomic_files.write_text(os.path.join(unfinished, 'checkpoint'),
                               'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n')
    print('\n'.join([f'{target}: {len(tensors)} weights of {args.source}', *tokenizer.notes]))


def check_encoder(directory: str, source: str, hparams: HParams) -> None:
    """Raises UserError, with the names of the files in `source`, unless the vocabulary is valid and fits the model."""
    try:
        encoder = load_encoder(directory)
    except UserError as error:
        message = str(error).replace(os.path.join(directory, ''), '')
        if os.path.exists(os.path.join(source, 'vocab.json')):
            message = message.replace('encoder.json', 'vocab.json').replace('vocab.bpe', 'merges.txt')
        raise UserError(f'the vocabulary in {source} is not valid: {message}') from None
    check_vocabulary(hparams, encoder.n_vocab, source, vocabulary='the vocabulary', size='vocab_size in config.json')


def meta_graph(hparams: HParams) -> bytes:
    """The content of model.ckpt.meta, as create_model.py writes it."""
    # Late: TensorFlow takes seconds to import, which a mistake in the flags should not cost.
    from command.tensorflow_setup import load_tensorflow, note_loading
    note_loading()
    load_tensorflow()
    import tensorflow.compat.v1 as tf

    import model
    from storage import saver
    with tf.Graph().as_default():
        model.model(hparams, tf.placeholder(tf.int32, [None, None]))
        return saver.meta_graph(tf.train.Saver())


def main() -> None:
    args = parse_flags()
    args.convert(args)


if __name__ == '__main__':
    run(main)
