#!/usr/bin/env python3
"""Fetches a published GPT-2 into models/NAME; whatever stops it, the same command run again goes on from there."""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import http.client
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm import tqdm

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'src'))
from command import errors, flags, models, whole_files
from command.errors import UserError, reason

BASE_URL = 'https://openaipublic.blob.core.windows.net/gpt-2'
CHUNK = 2 ** 15     # bytes; what is lost when a connection breaks, so not much larger
WEIGHTS = 'model.ckpt.data-00000-of-00001'
KNOWN_SIZES = {'124M': 497_759_232, '355M': 1_419_292_672, '774M': 3_096_120_320, '1558M': 6_230_444_800}  # of WEIGHTS
KNOWN_SHA256 = {'encoder.json': '196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783',
                'vocab.bpe': '1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5'}
# A directory counts as a model once it has hparams.json: that comes last, so half a model is never taken for one.
ORDER = sorted(models.FILES, key=lambda file: file == 'hparams.json')
WEB_PAGE = re.compile(rb'(\xef\xbb\xbf)?\s*<[?!]?[a-z]+[\s>]', re.IGNORECASE)


class Transient(requests.RequestException):
    """A failure that another try may mend."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """When to give up on a server. Times in seconds."""
    timeout: float = 30.0       # for a connection, and for a silence
    retries: int = 5            # tries after the first that bring nothing new
    first_wait: float = 1.0     # before the first of them, then twice as long each time
    longest_wait: float = 60.0


def say(text: str) -> None:
    """Prints a line above the progress bar, at once also where the output goes to a file."""
    tqdm.write(text)
    sys.stdout.flush()


def why(error: Exception) -> str:
    """A network error's root cause in a few words; what requests itself says is a paragraph of object names."""
    while error.__context__ is not None:
        error = error.__context__
    if isinstance(error, http.client.IncompleteRead):
        return 'the connection broke off'
    return reason(error) if isinstance(error, OSError) else str(error)


def insist(attempt: Callable, url: str, patience: Patience, progress: Callable[[], int] = lambda: 0):
    """Returns attempt()'s value, trying again after a network error; new progress starts the count of tries anew.

    Raises UserError that names the URL and the cause when the last try has failed.
    """
    furthest, failures, wait = progress(), 0, patience.first_wait
    while True:
        try:
            return attempt()
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            # Only past the furthest byte ever reached: a server that breaks off at the same place each time must end.
            if progress() > furthest:
                furthest, failures, wait = progress(), 0, patience.first_wait
            failures += 1
            if failures > patience.retries or isinstance(error, ValueError):    # ValueError: a bad URL
                raise UserError(f'cannot fetch {url}: {why(error)} (tries: {failures}); run the same command again to '
                                'go on where it stopped, or give another --base_url') from None
            say(f'{url}: {why(error)}; trying again in {wait:g} s ({failures} of {patience.retries})')
        time.sleep(wait)
        wait = min(2 * wait, patience.longest_wait)


def check_answer(response: requests.Response) -> None:
    """Raises Transient for a status that may pass, UserError for any other but 200 and 206, and for a web page."""
    status = f'HTTP {response.status_code} {response.reason}'.rstrip()
    if response.status_code in (408, 429) or response.status_code >= 500:
        raise Transient(status)
    if response.status_code not in (200, 206):
        raise UserError(f'cannot fetch {response.url}: {status}; if the models have moved, give --base_url')
    kind = response.headers.get('Content-Type', '')
    if 'html' in kind or 'xml' in kind:
        raise UserError(f'{response.url} is a web page ({kind}), not a model file; give another --base_url')


def size_of(ask: Callable[..., requests.Response], url: str) -> int:
    """Bytes of the file at `url`, from HEAD, or from a GET's headers where HEAD is refused or gives no length.

    Raises what check_answer does, and UserError if the server does not tell. `ask` is a session's request function.
    """
    for method in ('HEAD', 'GET'):
        with ask(method, url) as response:
            if method == 'GET' or response.status_code not in (405, 501):
                check_answer(response)
                length = response.headers.get('Content-Length', '')
                if length.isdecimal() and int(length) > 0:
                    return int(length)
    raise UserError(f'the server does not say how many bytes {url} has; give another --base_url')


def bytes_in(path: str) -> int:
    """Size of a file, 0 if there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def fault(path: str, file: str, size: int) -> str | None:
    """What keeps `path` from being the published `file` of `size` bytes, or None."""
    if bytes_in(path) != size:
        return f'has {bytes_in(path):,} bytes instead of {size:,}'
    with open(path, 'rb') as content:
        if WEB_PAGE.match(content.read(256)):
            return 'is a web page, not a model file'
        content.seek(0)
        if file in KNOWN_SHA256 and hashlib.sha256(content.read()).hexdigest() != KNOWN_SHA256[file]:
            return f'does not have the published SHA-256 {KNOWN_SHA256[file]}'
    return None


def fetch(ask: Callable[..., requests.Response], url: str, part: str, size: int, bar: tqdm) -> None:
    """One try at the bytes that `part` still lacks. Returns with the file `size` bytes long and safely on disk.

    Raises requests.RequestException for what another try may mend, UserError as check_answer does, OSError of the disk.
    """
    offset = bytes_in(part)
    headers = {'Range': f'bytes={offset}-'} if offset else {}
    with ask('GET', url, headers=headers) as response:
        status, span = response.status_code, response.headers.get('Content-Range', '')
        if status != 416:
            check_answer(response)
        if not (status == 206 and span.startswith(f'bytes {offset}-') and span.endswith((f'/{size}', '/*'))):
            bar.update(-offset)
            open(part, 'wb').close()
            if status != 200:
                raise Transient(f'the server does not go on from byte {offset:,} of {size:,}')
        with open(part, 'ab') as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > size:
                    break
            file.flush()
            os.fsync(file.fileno())
    if bytes_in(part) != size:      # when too long, the next try is answered with 416 or 200 and starts over
        raise Transient(f'{bytes_in(part):,} bytes came instead of {size:,}')


def fetch_missing(ask: Callable, urls: dict, sizes: dict[str, int], directory: str, patience: Patience) -> None:
    """Brings every file of `urls` into `directory` that is not there yet, each under its final name only when whole.

    Raises UserError for a disk too small, a lost network, or a file that is not the published one; OSError of the disk.
    """
    paths = {file: os.path.join(directory, file) for file in urls}
    for path in paths.values():
        if taken := next(filter(os.path.isdir, (path, f'{path}.part')), None):
            raise UserError(f'{taken} is a directory, where a file of the model belongs: remove it')
    parts = {file: path + '.part' for file, path in paths.items() if fault(path, file, sizes[file])}
    if not parts:
        return
    for file, part in parts.items():
        if bytes_in(part) > sizes[file]:
            os.remove(part)
    total, free = sum(sizes.values()), shutil.disk_usage(directory).free
    needed = sum(sizes[file] - bytes_in(part) for file, part in parts.items())
    if needed > free:
        raise UserError(f'{directory} needs {needed:,} bytes more, its disk has only {free:,} free; see --models_dir')
    say(f'{directory}: {needed / 1e6:,.1f} MB to fetch of {total / 1e6:,.1f} MB')
    with tqdm(total=total, initial=total - needed, unit='B', unit_scale=True, disable=None) as bar:
        for file, part in parts.items():
            bar.set_description(file)
            if bytes_in(part) != sizes[file]:
                insist(functools.partial(fetch, ask, urls[file], part, sizes[file], bar), urls[file], patience,
                       functools.partial(bytes_in, part))
            if problem := fault(part, file, sizes[file]):
                os.remove(part)
                raise UserError(f'what came from {urls[file]} {problem} and was removed; give another --base_url')
            os.replace(part, paths[file])


def download(name: str, models_dir: str = 'models', base_url: str = BASE_URL, patience: Patience = Patience()) -> str:
    """Fetches the published model `name` into models_dir/name and returns that directory.

    Raises UserError for an unknown name or a place that cannot be written to before any network, and for all that the
    server or the disk may do.
    """
    served = models.published_name(name)
    directory = os.path.join(models_dir, name)
    if not os.path.exists(os.path.join(directory, ORDER[-1])):      # a whole model may lie where only its owner writes
        try:
            whole_files.check_writable(directory)
        except UserError as error:
            raise UserError(f'{error}; see --models_dir') from None
    if served != name:
        say(f'{name} is the old name of {served}: fetching {served}, to be stored as {directory}')
    urls = {file: f'{base_url}/models/{served}/{file}' for file in ORDER}
    with requests.Session() as session:
        session.headers['Accept-Encoding'] = 'identity'     # compressed bytes would not add up to the file's size
        ask = functools.partial(session.request, stream=True, timeout=patience.timeout)
        sizes = {file: insist(functools.partial(size_of, ask, url), url, patience) for file, url in urls.items()}
        if sizes[WEIGHTS] != KNOWN_SIZES[served]:
            raise UserError(f'{urls[WEIGHTS]} has {sizes[WEIGHTS]:,} bytes, but the weights of {served} have '
                            f'{KNOWN_SIZES[served]:,}; give another --base_url')
        try:
            os.makedirs(directory, exist_ok=True)
            fetch_missing(ask, urls, sizes, directory, patience)
        except BrokenPipeError:     # of the terminal, not of the disk
            raise
        except OSError as error:
            raise UserError(f'cannot write {error.filename or directory}: {reason(error)}; see --models_dir') from None
    return directory


def http_url(text: str) -> str:
    """An argparse type: an http or https address, without the slash at its end."""
    with contextlib.suppress(ValueError):       # a port that is no number, half an IPv6 address
        url = urlsplit(text)
        if url.scheme in ('http', 'https') and url.hostname and url.port != 0:
            return text.rstrip('/')
    raise argparse.ArgumentTypeError(f'expected an address such as {BASE_URL}, not {text!r}')


def parse_args() -> argparse.Namespace:
    parser = flags.Parser(description='Downloads a published GPT-2. Run it again to go on after an interruption.')
    parser.add_argument('name', metavar='NAME', help=f'{", ".join(models.PUBLISHED)}; or the old names 117M, 345M')
    parser.add_argument('--models_dir', metavar='DIR', default='models', help='where to make the directory NAME')
    network = parser.add_argument_group('network')
    network.add_argument('--base_url', metavar='URL', type=http_url, default=BASE_URL,
                         help='where to fetch from: it serves models/NAME/FILE')
    network.add_argument('--timeout', metavar='SECONDS', default=Patience.timeout,
                         type=flags.number(float, 'seconds, above 0 and at most 3600', lambda value: 0 < value <= 3600),
                         help='how long to wait for a connection, and for a server that has fallen silent')
    network.add_argument('--retries', metavar='N', type=flags.non_negative_int, default=Patience.retries,
                         help='tries after the first in which nothing new arrives, with ever longer pauses')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    directory = download(args.name, args.models_dir, args.base_url, Patience(args.timeout, args.retries))
    place = '' if args.models_dir == 'models' else f' --models_dir {shlex.quote(args.models_dir)}'
    say(f'{directory} is complete; next: PYTHONPATH=src ./train.py --model_name {args.name}{place} --dataset YOUR_TEXT')


if __name__ == '__main__':
    errors.run(main)
