#!/usr/bin/env python3
"""Converts models to Hugging Face's format and back, one weight at a time. Each COMMAND has a --help of its own."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'src'))

import numpy as np
from tqdm import tqdm

from command import models, whole_files
from command.errors import UserError, run
from command.flags import Parser
from encoder import load_encoder
from network.hparams import HParams, check_vocabulary
from storage import bundle, huggingface, safetensors
from storage.model_directory import new_directory, open_model, write_hparams
from training import model_card


def parse_flags() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    there = commands.add_parser('to_hf', help='MODEL_OR_RUN OUT: write a Hugging Face directory',
                                description='Writes a model or a run as a Hugging Face directory, which AutoModelForCausalLM '
                                            'and AutoTokenizer load.')
    there.add_argument('source', metavar='MODEL_OR_RUN', help='a model in --models_dir, a run in checkpoint/, or the path of '
                       'either')
    there.add_argument('output', metavar='OUT', help='the directory to write; it must not exist, or be empty')
    there.set_defaults(convert=to_hf)
    back = commands.add_parser('from_hf', help='DIR NAME: make a model of a Hugging Face directory',
                               description='Makes a model of a Hugging Face directory of GPT-2; needs the safetensors package.')
    back.add_argument('source', metavar='DIR', help='with config.json, model.safetensors, and the tokenizer\'s files')
    back.add_argument('output', metavar='NAME', help='of the new model, a directory in --models_dir')
    back.set_defaults(convert=from_hf)
    for command in (there, back):
        command.add_argument('--models_dir', metavar='DIR', default='models', help='where models live')
    return parser.parse_args()


def find_source(name: str, models_dir: str) -> str:
    """The directory of a model or run, by its path or its name. Raises UserError if there is none, or one of each."""
    if os.path.isfile(os.path.join(name, 'hparams.json')):
        return name
    found, errors = [], []
    for find in (lambda: models.find_model(name, models_dir), lambda: models.find_run(name)):
        try:
            found.append(find())
        except UserError as error:
            errors.append(str(error))
    if not found:
        raise UserError('; '.join(errors))
    if len(found) > 1:
        raise UserError(f'{name} is a model and a run: give the path, {" or ".join(found)}')
    return found[0]


def bar(tensors: list) -> tqdm:
    return tqdm(tensors, unit='weight', delay=1, leave=False, disable=None)


def to_hf(args: argparse.Namespace) -> None:
    source = open_model(find_source(args.source, args.models_dir))
    directory, prefix = source.directory, source.checkpoint
    tensors = sorted(huggingface.tensors(source.hparams), key=lambda tensor: tensor.hf_name)
    with new_directory(args.output) as unfinished:
        for ours, theirs in (('encoder.json', 'vocab.json'), ('vocab.bpe', 'merges.txt')):
            shutil.copyfile(os.path.join(directory, ours), os.path.join(unfinished, theirs))
        huggingface.write_settings(unfinished, source.hparams, source.encoder)
        whole_files.write_text(os.path.join(unfinished, 'README.md'), model_card.model_card(directory, prefix))
        with open(os.path.join(unfinished, huggingface.WEIGHTS), 'wb') as file:
            safetensors.write_safetensors(file, {tensor.hf_name: tensor.hf_shape for tensor in tensors},
                                           checkpoint_weights(prefix, tensors))
    print(f'{args.output}: {len(tensors)} weights of {prefix}')


def checkpoint_weights(prefix: str, tensors: list[huggingface.Tensor]) -> Iterator[np.ndarray]:
    """The weights in a checkpoint, each read when it is asked for. Raises UserError if one of them is damaged."""
    # Late: TensorFlow takes seconds to import, which a mistake in the flags should not cost.
    from command.tensorflow_setup import load_tensorflow
    load_tensorflow()
    import tensorflow.compat.v1 as tf

    from storage import saver
    with saver.named_in_errors(prefix):
        reader = tf.train.load_checkpoint(prefix)
        for tensor in bar(tensors):
            yield reader.get_tensor(tensor.name)


def from_hf(args: argparse.Namespace) -> None:
    if not os.path.isdir(args.source):
        raise UserError(f'{args.source} is not a directory; expected one with config.json and model.safetensors, such as '
                        'Hugging Face\'s save_pretrained writes')
    hparams = huggingface.read_config(args.source)
    vocabulary = huggingface.read_vocabulary(args.source)
    weights = huggingface.Weights(args.source, hparams)
    tensors = sorted(huggingface.tensors(hparams))
    target = os.path.join(args.models_dir, args.output)
    with new_directory(target) as unfinished:
        huggingface.copy_vocabulary(vocabulary, unfinished)
        check_encoder(unfinished, args.source, hparams)
        write_hparams(unfinished, hparams)
        prefix = os.path.join(unfinished, 'model.ckpt')
        with open(f'{prefix}.data-00000-of-00001', 'wb') as data, open(f'{prefix}.index', 'wb') as index:
            bundle.write_bundle(data, index, {tensor.name: tensor.shape for tensor in tensors},
                                      map(weights.read, bar(tensors)))
        with open(f'{prefix}.meta', 'wb') as file:
            file.write(meta_graph(hparams))
        whole_files.write_text(os.path.join(unfinished, 'checkpoint'),
                         'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n')
    print(f'{target}: {len(tensors)} weights of {args.source}')


def check_encoder(directory: str, source: str, hparams: HParams) -> None:
    """Raises UserError, in terms of the source, unless the vocabulary makes an encoder that fits the model."""
    try:
        encoder = load_encoder(directory)
    except UserError as error:
        told = str(error).replace(os.path.join(directory, ''), '')
        if os.path.exists(os.path.join(source, 'vocab.json')):
            told = told.replace('encoder.json', 'vocab.json').replace('vocab.bpe', 'merges.txt')
        raise UserError(f'the vocabulary in {source} will not do: {told}') from None
    check_vocabulary(hparams, encoder.n_vocab, source, vocabulary='the vocabulary', size='vocab_size in config.json')


def meta_graph(hparams: HParams) -> bytes:
    """The content of model.ckpt.meta, as create_model.py leaves it."""
    # Late: TensorFlow takes seconds to import, which a mistake in the flags should not cost.
    from command.tensorflow_setup import load_tensorflow
    load_tensorflow()
    import tensorflow.compat.v1 as tf

    import model
    with tf.Graph().as_default():
        model.model(hparams, tf.placeholder(tf.int32, [None, None]))
        return tf.train.Saver().export_meta_graph(strip_default_attrs=True).SerializeToString()


def main() -> None:
    args = parse_flags()
    args.convert(args)


if __name__ == '__main__':
    run(main)
