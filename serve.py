#!/usr/bin/env python3
"""Serves a model: a page, and an API for clients of OpenAI's completions."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), 'src'))

from command.missing_packages import explain_missing_packages

if __name__ == '__main__':
    explain_missing_packages()

import argparse

from command import models
from command.errors import run
from serving.access import Access, in_url
from serving.flags import check_memory, check_packages, parse_flags
from storage.model_directory import Model, open_model


def open_served(args: argparse.Namespace) -> tuple[str, Model]:
    """The name and the model of --run_name or --model_name. Raises UserError."""
    if args.run_name is not None:
        return args.run_name, open_model(models.find_run(args.run_name, args.checkpoint_dir))
    return args.model_name, open_model(models.find_model(args.model_name, args.models_dir))


def main() -> None:
    args = parse_flags(__doc__)
    check_packages()
    name, model = open_served(args)
    check_memory(args.batch_size, model.hparams)
    from serving.server import listen, make_server, serve
    listening = listen(args.host, args.port)
    # TensorFlow takes seconds to import, so it comes after all checks.
    from command.device import load_and_report
    load_and_report()
    from generator import Generator
    from serving.app import Served, make_app
    from serving.batcher import Batcher
    from serving.schema import Limits
    generator = Generator(model, args.weights)
    limits = Limits(model.encoder.n_vocab, model.hparams.n_ctx, args.max_tokens, args.max_texts, args.max_body)
    batcher = Batcher(generator, batch_size=args.batch_size, queue=args.queue)
    batcher.warm_up()
    created = int(os.path.getmtime(f'{model.checkpoint}.index'))
    app = make_app(Served(name, created, generator, limits), batcher, Access(args.host, args.port, args.token),
                   args.token is not None)
    host = '127.0.0.1' if args.host in ('0.0.0.0', '::') else args.host
    print(f'{name} is at http://{in_url(host)}:{args.port} (Ctrl-C ends the server)', flush=True)
    serve(make_server(app, batcher), batcher, listening)


if __name__ == '__main__':
    run(main)
