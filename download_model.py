#!/usr/bin/env python3
"""Downloads a published GPT-2 into models/NAME.

Run the same command again to resume an interrupted download.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import http.client
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), 'src'))

from command.missing_packages import explain_missing_packages

if __name__ == '__main__':
    explain_missing_packages()

import requests
import urllib3
from tqdm import tqdm

from command import atomic_files, errors, flags, models
from command.errors import UserError, reason
from command.read_files import WEB_PAGE

BASE_URL = 'https://openaipublic.blob.core.windows.net/gpt-2'
CHUNK = 2 ** 15     # bytes; lost when a connection is interrupted, so not much larger
WEIGHTS = 'model.ckpt.data-00000-of-00001'
KNOWN_SIZES = {'124M': 497_759_232, '355M': 1_419_292_672, '774M': 3_096_120_320, '1558M': 6_230_444_800}  # of WEIGHTS
KNOWN_SHA256 = {'encoder.json': '196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783',
                'vocab.bpe': '1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5'}
# hparams.json makes a directory a model, so it comes last: an incomplete download is not listed as a model.
ORDER = sorted(models.FILES, key=lambda file: file == 'hparams.json')
EXAMPLES = ('./download_model.py 124M',)


class Transient(requests.RequestException):
    """A failure that may not happen again."""


@dataclasses.dataclass(frozen=True)
class Retries:
    """How often to try. Times in seconds."""
    timeout: float = 30.0       # to connect, and between bytes
    count: int = 5              # tries after the first that receive nothing new
    first_wait: float = 1.0     # before the first of them; doubled before each of the next
    longest_wait: float = 60.0


def print_line(text: str) -> None:
    """Prints a line above the progress bar, immediately also where the output goes to a file."""
    tqdm.write(text)
    sys.stdout.flush()


def cause(error: Exception) -> str:
    """The root cause of a network error in a few words, without requests' paragraph of object names."""
    while error.__context__ is not None:
        error = error.__context__
    if isinstance(error, http.client.IncompleteRead):
        return 'the connection was interrupted'
    return reason(error) if isinstance(error, OSError) else str(error)


def retry(attempt: Callable, url: str, retries: Retries, progress: Callable[[], int] = lambda: 0):
    """Returns attempt()'s value, trying again after network errors; progress resets the count of tries.

    Raises UserError that names the URL and the cause when the last try has failed.
    """
    furthest, failures, wait = progress(), 0, retries.first_wait
    while True:
        try:
            return attempt()
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            # Only beyond the furthest byte so far: a server that always fails at the same byte must not be asked forever.
            if progress() > furthest:
                furthest, failures, wait = progress(), 0, retries.first_wait
            failures += 1
            if failures > retries.count or isinstance(error, ValueError):    # ValueError: an invalid URL
                raise UserError(f'cannot fetch {url}: {cause(error)} (tries: {failures}); run the same command again to '
                                'resume the download, or give another --base_url') from None
            print_line(f'{url}: {cause(error)}; trying again in {wait:g} s ({failures} of {retries.count})')
        time.sleep(wait)
        wait = min(2 * wait, retries.longest_wait)


def send(session: requests.Session, method: str, url: str, **options) -> requests.Response:
    """session.request, in which what is wrong with the settings of this machine's network is a UserError.

    For example a REQUESTS_CA_BUNDLE that does not exist, or a .netrc or an address that is not UTF-8.
    """
    try:
        return session.request(method, url, **options)
    except (requests.RequestException, urllib3.exceptions.HTTPError):
        raise
    except (OSError, ValueError) as error:
        raise UserError(f'cannot fetch {url}: {error}; see the environment variables of the network, such as '
                        'REQUESTS_CA_BUNDLE, HTTPS_PROXY and NETRC, or give another --base_url') from None


def check_response(response: requests.Response) -> None:
    """Raises Transient for a temporary error, UserError for any other status but 200 and 206, and for a web page."""
    status = f'HTTP {response.status_code} {response.reason}'.rstrip()
    if response.status_code in (408, 429) or response.status_code >= 500:
        raise Transient(status)
    if response.status_code not in (200, 206):
        raise UserError(f'cannot fetch {response.url}: {status}; if the models have moved, give --base_url')
    kind = response.headers.get('Content-Type', '')
    if 'html' in kind or 'xml' in kind:
        raise UserError(f'{response.url} is a web page ({kind}), not a model file; give another --base_url')


def remote_size(request: Callable[..., requests.Response], url: str) -> int:
    """Bytes of the file at `url`, from HEAD, or from a GET's headers where HEAD is refused or gives no length.

    Raises what check_response does, and UserError if there is no length. `request` is that of a session.
    """
    for method in ('HEAD', 'GET'):
        with request(method, url) as response:
            if method == 'GET' or response.status_code not in (405, 501):
                check_response(response)
                length = response.headers.get('Content-Length', '')
                if length.isdecimal() and int(length) > 0:
                    return int(length)
    raise UserError(f'the server does not report the size of {url}; give another --base_url')


def local_size(path: str) -> int:
    """Bytes of a file, 0 if it does not exist."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def difference(path: str, file: str, size: int) -> str | None:
    """How `path` differs from the published `file` of `size` bytes; None if it does not."""
    if local_size(path) != size:
        return f'has {local_size(path):,} bytes instead of {size:,}'
    with open(path, 'rb') as content:
        if WEB_PAGE.match(content.read(256)):
            return 'is a web page, not a model file'
        content.seek(0)
        if file in KNOWN_SHA256 and hashlib.sha256(content.read()).hexdigest() != KNOWN_SHA256[file]:
            return f'does not have the published SHA-256 {KNOWN_SHA256[file]}'
    return None


def fetch(request: Callable[..., requests.Response], url: str, part: str, size: int, bar: tqdm) -> None:
    """Tries once to fetch the bytes that `part` still lacks. Returns when the file has `size` bytes and is on disk.

    Raises requests.RequestException if another try may succeed, UserError as check_response does, OSError of the disk.
    """
    offset = local_size(part)
    headers = {'Range': f'bytes={offset}-'} if offset else {}
    with request('GET', url, headers=headers) as response:
        status, received_range = response.status_code, response.headers.get('Content-Range', '')
        if status != 416:
            check_response(response)
        if not (status == 206 and received_range.startswith(f'bytes {offset}-') and received_range.endswith((f'/{size}', '/*'))):
            bar.update(-offset)
            open(part, 'wb').close()
            if status != 200:
                raise Transient(f'the server does not resume at byte {offset:,} of {size:,}')
        with open(part, 'ab') as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > size:
                    break
            file.flush()
            os.fsync(file.fileno())
    if local_size(part) != size:      # if it is too long, the server answers the next try with 416 or 200: start again
        raise Transient(f'received {local_size(part):,} bytes instead of {size:,}')


def fetch_missing(request: Callable, urls: dict, sizes: dict[str, int], directory: str, retries: Retries) -> None:
    """Fetches every file of `urls` that `directory` lacks, each under its final name only when it is complete.

    Raises UserError for a full disk, a lost network, or a file that is not the published one; OSError of the disk.
    """
    paths = {file: os.path.join(directory, file) for file in urls}
    for path in paths.values():
        if taken := next(filter(os.path.isdir, (path, f'{path}.part')), None):
            raise UserError(f'{taken} is a directory, where a file of the model belongs: remove it')
    parts = {file: path + '.part' for file, path in paths.items() if difference(path, file, sizes[file])}
    if not parts:
        return
    for file, part in parts.items():
        if local_size(part) > sizes[file]:
            os.remove(part)
    total, free = sum(sizes.values()), shutil.disk_usage(directory).free
    needed = sum(sizes[file] - local_size(part) for file, part in parts.items())
    if needed > free:
        raise UserError(f'{directory} needs {needed:,} bytes more, its disk has only {free:,} free; see --models_dir')
    print_line(f'{directory}: {needed / 1e6:,.1f} MB to fetch of {total / 1e6:,.1f} MB')
    with tqdm(total=total, initial=total - needed, unit='B', unit_scale=True, disable=None) as bar:
        for file, part in parts.items():
            bar.set_description(file)
            if local_size(part) != sizes[file]:
                retry(functools.partial(fetch, request, urls[file], part, sizes[file], bar), urls[file], retries,
                      functools.partial(local_size, part))
            if problem := difference(part, file, sizes[file]):
                os.remove(part)
                raise UserError(f'the file from {urls[file]} {problem} and was removed; give another --base_url')
            os.replace(part, paths[file])


def download(name: str, models_dir: str = 'models', base_url: str = BASE_URL, retries: Retries = Retries()) -> str:
    """Fetches the published model `name` into models_dir/name and returns that directory.

    Raises UserError for an unknown name or a directory that is not writable before using the network, and for any failure
    of the server or the disk.
    """
    served = models.published_name(name)
    directory = os.path.join(models_dir, name)
    if not os.path.exists(os.path.join(directory, ORDER[-1])):      # a complete model may be read-only
        try:
            atomic_files.check_writable(directory)
        except UserError as error:
            raise UserError(f'{error}; see --models_dir') from None
    if served != name:
        print_line(f'{name} is the old name of {served}: fetching {served}, to be stored as {directory}')
    urls = {file: f'{base_url}/models/{served}/{file}' for file in ORDER}
    with requests.Session() as session:
        session.headers['Accept-Encoding'] = 'identity'     # the size of a compressed answer would not be the file's
        request = functools.partial(send, session, stream=True, timeout=retries.timeout)
        sizes = {file: retry(functools.partial(remote_size, request, url), url, retries) for file, url in urls.items()}
        if sizes[WEIGHTS] != KNOWN_SIZES[served]:
            raise UserError(f'{urls[WEIGHTS]} has {sizes[WEIGHTS]:,} bytes, but the weights of {served} have '
                            f'{KNOWN_SIZES[served]:,}; give another --base_url')
        try:
            os.makedirs(directory, exist_ok=True)
            fetch_missing(request, urls, sizes, directory, retries)
        except BrokenPipeError:     # of standard output, not of the disk
            raise
        except OSError as error:
            raise UserError(f'cannot write {error.filename or directory}: {reason(error)}; see --models_dir') from None
    return directory


def http_url(text: str) -> str:
    """An argparse type: an http or https URL, returned without a slash at its end."""
    with contextlib.suppress(ValueError):       # an invalid port or IPv6 address
        url = urlsplit(text)
        if url.scheme in ('http', 'https') and url.hostname and url.port != 0:
            return text.rstrip('/')
    raise argparse.ArgumentTypeError(f'expected an address such as {BASE_URL}, not {text!r}')


def parse_args() -> argparse.Namespace:
    parser = flags.Parser(description=__doc__, examples=EXAMPLES)
    parser.add_argument('name', metavar='NAME', help=f'{", ".join(models.PUBLISHED)}; or the old names 117M, 345M')
    parser.add_argument('--models_dir', metavar='DIR', type=flags.path, default='models',
                        help='directory in which to create the directory NAME')
    network = parser.add_argument_group('network')
    network.add_argument('--base_url', metavar='URL', type=http_url, default=BASE_URL,
                         help='server to fetch from: it has models/NAME/FILE')
    network.add_argument('--timeout', metavar='SECONDS', default=Retries.timeout,
                         type=flags.number(float, 'seconds, above 0 and at most 3600', lambda value: 0 < value <= 3600),
                         help='how long to wait for a connection, and for the next bytes')
    network.add_argument('--retries', metavar='N', type=flags.non_negative_int, default=Retries.count,
                         help='tries after the first that receive nothing new, with increasing pauses')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    directory = download(args.name, args.models_dir, args.base_url, Retries(args.timeout, args.retries))
    flag = '' if args.models_dir == 'models' else f' --models_dir {shlex.quote(args.models_dir)}'
    print_line(f'{directory} is complete; next: PYTHONPATH=src ./train.py --model_name {args.name}{flag} --dataset YOUR_TEXT')


if __name__ == '__main__':
    errors.run(main)
