#!/usr/bin/env python3
"""Measures how well a model predicts a text: loss, perplexity, bits/byte."""

import argparse
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), 'src'))

from command.missing_packages import explain_missing_packages

if __name__ == '__main__':
    explain_missing_packages()

from tqdm import tqdm

from command import models
from command.errors import UserError, run
from command.flags import Parser, positive_int
from corpus import windows
from corpus.data_sets import DataSet, find_texts, in_words, one_or_list
from corpus.flags import add_dataset_flag, add_text_flags, add_token_flags, text_format
from corpus.read_text import check_text_column
from encoder import Encoder
from evaluation.texts import EACH, Texts
from load_dataset import load_sets
from network.hparams import HParams
from network.quantize import TYPES
from sampling.scores import figures
from storage.model_directory import Model, open_model

FIGURES = (('loss', 'nats per token'), ('perplexity', 'per token'), ('word_perplexity', 'per word, which white space separates'),
           ('bits_per_byte', 'of UTF-8'))
EXAMPLES = ('./evaluate.py --model_name tiny --dataset test.txt',
            './evaluate.py --run_name run1 --dataset test.txt --each line')


def parse_flags() -> argparse.Namespace:
    parser = Parser(description=__doc__, examples=EXAMPLES)
    what = models.add_model_flags(parser, 'evaluate')
    what.add_argument('--weights', choices=TYPES, default='float32',
                      help='keep the weights in memory as bfloat16 or int8, as sampling does with --weights, to see the cost')
    data = parser.add_argument_group('data')
    add_dataset_flag(data, 'text or .npz to predict (required)', required=True)
    add_text_flags(data)
    add_token_flags(data)
    window = parser.add_argument_group('window')
    window.add_argument('--seq_length', metavar='TOKENS', type=positive_int,
                        help='length of the window: the most tokens to predict from (default: the model\'s window)')
    window.add_argument('--stride', metavar='TOKENS', type=positive_int,
                        help='tokens by which the window moves. 1 gives each token the longest context, but takes a pass for '
                             'each token; --seq_length is fastest (default: half of --seq_length)')
    window.add_argument('--batch_size', metavar='N', type=positive_int, default=8, help='windows to score at a time')
    output = parser.add_argument_group('output')
    output.add_argument('--json', action='store_true', help='print one JSON object')
    output.add_argument('--each', choices=EACH, help='score each line (or record), document or file by itself, and print a JSON '
                        'object for it; the figures of all together go to standard error')
    return parser.parse_args()


def window_sizes(args: argparse.Namespace, hparams: HParams) -> tuple[int, int]:
    """Length and stride of the window, in tokens. Raises UserError if the model has no room for them."""
    length = args.seq_length or hparams.n_ctx
    if length > hparams.n_ctx:
        raise UserError(f'--seq_length {length} is more than the model\'s window of {hparams.n_ctx} tokens')
    stride = args.stride or max(length // 2, 1)
    if stride > length:
        raise UserError(f'--stride {stride} is more than the window of {length} tokens: it would skip tokens')
    return length, stride


def load_chunks(args: argparse.Namespace, encoder: Encoder) -> Texts | list:
    """The corpus as chunks of token ids; with --each, of a text each. Raises UserError if there is nothing to score."""
    name, files, format = in_words(args.dataset), find_texts(args.dataset), text_format(args)
    check_text_column(format, files)
    chunks = (Texts(encoder, files, args.each, format) if args.each else
              load_sets(encoder, name, [DataSet(files)], args.combine, format, args.processes).chunks)
    if not windows.scored_tokens(chunks):
        raise UserError(f'the corpus {name} is empty: it has no text' if args.each else
                        f'the corpus {name} is too short: no chunk of it has 2 tokens')
    return chunks


def token_bar(texts: Texts | list) -> tqdm:
    return tqdm(total=windows.scored_tokens(texts), unit='token', unit_scale=True, leave=False, disable=None)


def score_each(texts: Texts, generator, length: int, stride: int, batch_size: int) -> float:
    """Prints a line of JSON for each text, in order. Returns the sum of all losses, in nats. generator: a Generator."""
    total = 0.0
    # JSON is UTF-8, or ASCII where standard output is something else.
    ascii_only = (sys.stdout.encoding or 'ascii').lower() not in ('utf-8', 'utf8')
    with token_bar(texts) as bar:
        scores = generator.scores(texts, length=length, stride=stride, batch_size=batch_size, scored=bar.update)
        for text, score in zip(texts.described(), scores):
            total -= float(score.log_probabilities.sum(dtype='float64'))
            record = text | {'tokens': len(score.tokens), 'bytes': score.n_bytes, 'loss': score.loss,
                             'perplexity': score.perplexity, 'bits_per_byte': score.bits_per_byte}
            bar.write(json.dumps(record, ensure_ascii=ascii_only), file=sys.stdout)
    return total


def total_loss(chunks: Texts | list, model: Model, args: argparse.Namespace, length: int, stride: int) -> float:
    """The sum of the losses of all tokens, in nats."""
    if args.each or args.weights != 'float32':
        from generator import Generator
        generator = Generator(model, args.weights)
        if args.each:
            return score_each(chunks, generator, length, stride, args.batch_size)
        with token_bar(chunks) as bar:
            scores = generator.scores(chunks, length=length, stride=stride, batch_size=args.batch_size, scored=bar.update)
            return -sum(float(score.log_probabilities.sum(dtype='float64')) for score in scores)
    from evaluation.losses import Evaluation
    longest = max(map(len, chunks)) - 1     # a longer window would only be padded
    evaluation = Evaluation(model, length=min(length, longest), stride=min(stride, longest), batch_size=args.batch_size)
    return evaluation.total_loss(chunks)


def main() -> None:
    args = parse_flags()
    model = open_model(models.find_run(args.run_name, args.checkpoint_dir) if args.run_name is not None
                       else models.find_model(args.model_name, args.models_dir))
    length, stride = window_sizes(args, model.hparams)
    chunks = load_chunks(args, model.encoder)
    tokens = windows.scored_tokens(chunks)
    n_bytes, words = windows.measure_text(model.encoder, chunks)
    start = time.perf_counter()
    # Imported late: TensorFlow takes seconds to import, which a mistake in the flags should not cost.
    from command.device import load_and_report
    load_and_report()
    loss = total_loss(chunks, model, args, length, stride)
    result = figures(loss, tokens=tokens, words=words, n_bytes=n_bytes)
    report(args, result | {'tokens': tokens, 'words': words, 'bytes': n_bytes, 'chunks': len(chunks),
                           'dataset': one_or_list(args.dataset), 'checkpoint': model.checkpoint,
                           'seq_length': length, 'stride': stride, 'batch_size': args.batch_size,
                           'seconds': round(time.perf_counter() - start, 2)})


def report(args: argparse.Namespace, result: dict) -> None:
    """Prints the result, as one JSON object with --json; on standard error if --each has standard output."""
    file = sys.stderr if args.each else sys.stdout
    if args.json:
        print(json.dumps(result), file=file)
        return
    result['dataset'] = in_words(args.dataset)
    print('{checkpoint} on {dataset}: {tokens} tokens, {words} words, {bytes} bytes; window {seq_length}, stride {stride}, '
          '{seconds} s'.format(**result), file=file)
    for name, unit in FIGURES:
        value = 'none' if result[name] is None else f'{result[name]:.6g}'
        print(f'{name.replace("_", " "):16} {value:>12}  {unit}', file=file)


if __name__ == '__main__':
    run(main)
