"""The flags of serve.py, checked before TensorFlow."""

import argparse

from command import models
from command.errors import UserError
from command.flags import Parser, number, positive_int
from command.machine import available_memory, visible_gpus
from network.hparams import HParams
from network.quantize import TYPES
from serving.access import is_loopback

EXAMPLES = ('./serve.py --model_name tiny', './serve.py --run_name run1 --port 8080 --weights int8')
MISSING = 'serving needs the {} package: pip install -r requirements-serve.txt'

port_number = number(int, 'a port, 1 to 65535', lambda value: 1 <= value <= 65535)


def parse_flags(description: str) -> argparse.Namespace:
    """The flags. Raises UserError for invalid ones, and for an address that others can reach without a token."""
    parser = Parser(description=description, examples=EXAMPLES)
    what = models.add_model_flags(parser, 'serve')
    what.add_argument('--weights', choices=TYPES, default='float32',
                      help='the type of the weights in memory: fewer bytes are read faster, and rounded')
    where = parser.add_argument_group('address')
    where.add_argument('--host', metavar='ADDRESS', default='127.0.0.1', help='the address to listen at; 0.0.0.0 is every one of '
                       'this machine. One that other machines reach needs --token')
    where.add_argument('--port', type=port_number, default=8000, help='the port to listen at')
    where.add_argument('--token', help='what requests must bring, as Authorization: Bearer TOKEN (default: nothing)')
    load = parser.add_argument_group('load')
    load.add_argument('--batch_size', metavar='N', type=positive_int, default=8, help='texts that are written together, at most')
    load.add_argument('--queue', metavar='N', type=positive_int, default=64, help='requests that may wait besides as many as '
                      '--batch_size; more are answered with status 503')
    load.add_argument('--max_tokens', metavar='N', type=positive_int, default=2048, help='tokens of a text that a request may '
                      'ask for')
    load.add_argument('--max_texts', metavar='N', type=positive_int, default=128, help='texts that a request may ask for: '
                      'prompts times n')
    load.add_argument('--max_body', metavar='BYTES', type=positive_int, default=2 ** 20, help='size of a request')
    args = parser.parse_args()
    if args.token is not None and not (args.token and all('!' <= character <= '~' for character in args.token)):
        raise UserError('--token must be letters, digits and signs of ASCII, without spaces')
    if not is_loopback(args.host) and args.token is None:
        raise UserError(f'--host {args.host} lets other machines in: give a --token that requests must bring, or no --host')
    return args


def check_memory(batch_size: int, hparams: HParams) -> None:
    """Raises UserError if memory cannot hold the keys and values of so many texts that fill the model's window."""
    needed = batch_size * 4 * 2 * hparams.n_layer * hparams.n_embd * hparams.n_ctx
    available = None if visible_gpus() else available_memory()      # on a GPU its own memory counts
    if available is not None and needed > available:
        raise UserError(f'--batch_size {batch_size} needs {needed / 1e9:,.1f} GB for texts that fill the window, '
                        f'{available / 1e9:,.1f} GB are available: give a smaller one')


def check_packages() -> None:
    """Raises UserError unless the packages are installed that only serving needs."""
    for name in ('starlette', 'uvicorn'):
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            raise UserError(MISSING.format(error.name)) from None
