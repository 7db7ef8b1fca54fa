#!/usr/bin/env python3
"""Converts models to Hugging Face's format and back, or to GGUF, weight by weight.

Each COMMAND has its own --help.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator

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
from network.hparams import HParams, check_vocabulary, load_hparams, write_hparams
from storage import adapters, bundle, gguf_format, huggingface, huggingface_tokenizer, peft_config, peft_format, safetensors
from storage.model_directory import Model, new_directory, open_model
from storage.weights import Weights
from training import model_card

EXAMPLES = ('./convert.py to_hf run1 mine-hf',
            './convert.py to_hf run1 mine-adapter --adapter',
            './convert.py from_hf gpt2-hf mine',
            './convert.py from_hf an-adapter mine --base 124M',
            './convert.py to_gguf run1 mine.gguf',
            './convert.py to_gguf run1 mine.gguf --type q8_0')

SOURCE = ('a model in --models_dir, a run in --checkpoint_dir, or the path of either; RUN/best, RUN/latest and RUN/STEP name a '
          'checkpoint (default: the best of a run with --keep_best, else the newest)')


def parse_flags() -> argparse.Namespace:
    parser = Parser(description=__doc__, examples=EXAMPLES[:4:2])
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    export = commands.add_parser('to_hf', help='MODEL_OR_RUN OUT: write a Hugging Face directory',
                                 description='Writes a model or a run as a Hugging Face directory, which AutoModelForCausalLM '
                                             'and AutoTokenizer load.', examples=EXAMPLES[:2])
    export.add_argument('source', metavar='MODEL_OR_RUN', type=path, help=SOURCE)
    export.add_argument('output', metavar='OUT', type=path, help='the directory to write; it must not exist, or be empty')
    export.add_argument('--adapter', action='store_true', help='of a run with --lora_rank, write its adapters alone, as peft '
                        'does: PeftModel.from_pretrained(BASE, OUT) loads them (default: the complete model, with the adapters '
                        'merged)')
    export.set_defaults(convert=to_hf)
    import_ = commands.add_parser('from_hf', help='DIR NAME: make a model from a Hugging Face directory',
                                  description='Makes a model from a Hugging Face directory of GPT-2, or, with --base, from a '
                                              'LoRA adapter of peft; needs the safetensors package.', examples=EXAMPLES[2:4])
    import_.add_argument('source', metavar='DIR', type=path,
                         help='a directory with config.json, model.safetensors, and the tokenizer\'s files; with --base, one '
                         'with adapter_config.json and adapter_model.safetensors')
    import_.add_argument('output', metavar='NAME', help='of the new model, a directory in --models_dir')
    import_.add_argument('--base', metavar='MODEL_OR_RUN', type=path, help='the model or run here that a LoRA adapter of peft '
                         'was trained on. The new model is complete, with the adapter merged, and has the base\'s vocabulary '
                         '(default: none, for a DIR that is a complete model)')
    import_.set_defaults(convert=from_hf)
    gguf = commands.add_parser('to_gguf', help='MODEL_OR_RUN FILE: write one file for llama.cpp, Ollama and LM Studio',
                               description='Writes a model or a run, with its vocabulary, as a GGUF file, which llama.cpp, '
                                           'Ollama and LM Studio run; needs the gguf package.', examples=EXAMPLES[4:])
    gguf.add_argument('source', metavar='MODEL_OR_RUN', type=path, help=SOURCE)
    gguf.add_argument('output', metavar='FILE', type=path, help='the file to write, NAME.gguf; it must not exist')
    gguf.add_argument('--type', choices=gguf_format.TYPES, default='float16',
                      help='how matrices are stored: q8_0 in 8 bits, with a scale for each 32 weights')
    gguf.set_defaults(convert=to_gguf)
    for command in (export, import_, gguf):
        command.add_argument('--models_dir', metavar='DIR', type=path, default='models', help='the directory of the models')
        command.add_argument('--checkpoint_dir', metavar='DIR', type=path, default=models.CHECKPOINT_DIR,
                             help='the directory of the runs')
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
    if args.adapter:
        to_peft(source, args.output)
        return
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


def to_gguf(args: argparse.Namespace) -> None:
    if os.path.lexists(args.output):
        raise UserError(f'{args.output} exists already: choose another name, or remove it')
    gguf_format.import_gguf()
    source = open_model(find_source(args.source, args.models_dir, args.checkpoint_dir))
    tensors = huggingface.tensors(source.hparams)
    gguf_format.write_gguf(args.output, source, checkpoint_weights(source.checkpoint, tensors), args.type)
    print(f'{args.output}: {os.path.getsize(args.output) / 1e6:.0f} MB, {len(tensors)} weights of {source.checkpoint}')


def to_peft(source: Model, output: str) -> None:
    """Writes the adapters of a run's checkpoint as a directory of peft."""
    of = adapters.read(source.checkpoint)
    if of is None:
        raise UserError(f'{source.checkpoint} holds a complete model, no adapters: --adapter is for runs with --lora_rank; leave '
                        'it out')
    factors = peft_format.factors(of.lora, source.hparams)
    base = peft_config.base_name(of.base, source.hparams)
    with new_directory(output) as unfinished:
        peft_config.write_config(unfinished, of.lora, base)
        card = model_card.model_card(source.directory, source.checkpoint, adapter_of=base)
        atomic_files.write_text(os.path.join(unfinished, 'README.md'), card)
        with open(os.path.join(unfinished, peft_format.WEIGHTS), 'wb') as file:
            safetensors.write_safetensors(file, {factor.peft_name: factor.peft_shape for factor in factors},
                                          (value.T for value in checkpoint_weights(source.checkpoint, factors)))
    merged = ', merged with its own base' if adapters.has_factors(of.base) else ''
    there = '' if base in models.HUB_NAMES.values() else f'; ./convert.py to_hf {shlex.quote(of.base)} DIR writes that base'
    print(f'{output}: {len(factors)} weights of {source.checkpoint}, which are added to {base}{merged}{there}')


def checkpoint_weights(prefix: str, tensors: list[huggingface.Tensor | peft_format.Factor]) -> Iterator[np.ndarray]:
    """Yields the weights in a checkpoint, read one by one. Raises UserError if one is damaged."""
    weights = Weights(prefix, {tensor.name: tensor.shape for tensor in tensors})
    for tensor in progress_bar(tensors):
        yield weights.read(tensor.name)


def from_hf(args: argparse.Namespace) -> None:
    if not os.path.isdir(args.source):
        raise UserError(f'{args.source} is not a directory; expected one with config.json and model.safetensors, as '
                        'Hugging Face\'s save_pretrained writes it, or with adapter_config.json and adapter_model.safetensors')
    has_adapter = peft_format.holds_adapter(args.source)
    if args.base is not None:
        if not has_adapter:
            raise UserError(f'{args.source} holds no {peft_config.CONFIG}, so it is no adapter of peft; --base is for these')
        from_peft(args)
        return
    if has_adapter and not huggingface.holds_weights(args.source):
        raise UserError(f'{args.source} holds a LoRA adapter, not a complete model: give the model that it was trained on with '
                        f'--base MODEL_OR_RUN; {peft_config.named_base(args.source)}')
    hparams = huggingface.read_config(args.source)
    tokenizer = huggingface_tokenizer.read_tokenizer(args.source, hparams.n_vocab)
    weights = huggingface.Weights(args.source, hparams)
    tensors = sorted(huggingface.tensors(hparams))
    target = check_utf8(os.path.join(args.models_dir, args.output))
    with new_directory(target) as unfinished:
        huggingface_tokenizer.write_model_files(unfinished, tokenizer)
        check_encoder(unfinished, args.source, hparams)
        write_model(unfinished, hparams, map(weights.read, progress_bar(tensors)))
    adapter_note = [f'{args.source} holds a LoRA adapter too, which is not in the new model; --base reads it'] * has_adapter
    print('\n'.join([f'{target}: {len(tensors)} weights of {args.source}', *tokenizer.notes, *adapter_note]))


def from_peft(args: argparse.Namespace) -> None:
    """Makes a model from an adapter in a directory of peft, merged with its base."""
    if os.path.isfile(os.path.join(args.base, 'config.json')) and not os.path.exists(os.path.join(args.base, 'hparams.json')):
        raise UserError(f'--base {args.base} is a Hugging Face directory: ./convert.py from_hf {shlex.quote(args.base)} NAME '
                        'makes a model of it, which --base takes')
    path = find_source(args.base, args.models_dir, args.checkpoint_dir)
    # Before the base's weights are read, which takes a while.
    adapter = peft_format.Adapter(args.source, load_hparams(models.directory_of(path)))
    base = open_model(path)
    tensors = sorted(huggingface.tensors(base.hparams))
    target = check_utf8(os.path.join(args.models_dir, args.output))
    with new_directory(target) as unfinished:
        for name in models.vocabulary_files(base.directory):
            shutil.copyfile(os.path.join(base.directory, name), os.path.join(unfinished, name))
        weights = checkpoint_weights(base.checkpoint, tensors)
        write_model(unfinished, base.hparams, (adapter.merged(tensor.name, w) for tensor, w in zip(tensors, weights)))
    print(f'{target}: {len(tensors)} weights of {base.checkpoint}, {len(adapter.matrices)} of them merged with the adapter '
          f'{args.source}; {peft_config.named_base(args.source)}')


def write_model(directory: str, hparams: HParams, weights: Iterable[np.ndarray]) -> None:
    """Writes hparams.json and model.ckpt. weights: sorted by their names, consumed one by one. Raises OSError."""
    write_hparams(directory, hparams)
    prefix = os.path.join(directory, 'model.ckpt')
    with open(f'{prefix}.data-00000-of-00001', 'wb') as data, open(f'{prefix}.index', 'wb') as index:
        bundle.write_bundle(data, index, dict(sorted(hparams.shapes().items())), weights)
    with open(f'{prefix}.meta', 'wb') as file:
        file.write(meta_graph(hparams))
    atomic_files.write_text(os.path.join(directory, 'checkpoint'),
                            'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n')


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
