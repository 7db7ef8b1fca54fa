"""download_model.py: what it fetches, what it resumes, and mistakes in one line."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import download_model
from command import errors
from command import models as model_names
from command.errors import UserError
from download_model import WEIGHTS, download
from model_server import BODIES, HASTY, SHA256, TOTAL, XML, contents, only, write

pytest_plugins = ['model_server']
SCRIPT = os.path.abspath(download_model.__file__)


def test_fetches_seven_files_from_the_new_name_into_the_old_one(server, models, bars, capsys):
    assert download('117M', models, server.url, HASTY) == os.path.join(models, '117M')
    assert contents(os.path.join(models, '117M')) == BODIES
    assert server.directories == {'/gpt-2/models/124M'}
    assert server.encodings == {'identity'}
    assert server.gets()[-1] == 'hparams.json'      # what makes the directory a model comes last
    assert capsys.readouterr().out.splitlines()[0] == (
        f'117M is the old name of 124M: fetching 124M, to be stored as {os.path.join(models, "117M")}')
    assert [(bar.initial, bar.n, bar.total) for bar in bars] == [(0, TOTAL, TOTAL)]


@pytest.mark.parametrize('name, served', [('345M', '355M'), ('124M', '124M'), ('1558M', '1558M')])
def test_names(server, models, capsys, name, served):
    download(name, models, server.url, HASTY)
    assert os.listdir(models) == [name]
    assert server.directories == {f'/gpt-2/models/{served}'}
    assert ('old name' in capsys.readouterr().out) == (name != served)


def test_complete_files_are_not_fetched_again(server, models, bars):
    download('124M', models, server.url, HASTY)
    server.seen.clear()
    download('124M', models, server.url, HASTY)
    assert server.gets() == []
    assert len(bars) == 1


def test_files_of_the_wrong_size_or_content_are_fetched_again(server, models, bars):
    download('124M', models, server.url, HASTY)
    server.seen.clear()
    write(os.path.join(models, '124M'), weights=BODIES[WEIGHTS][:60_000], vocab=BODIES['vocab.bpe'][::-1])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == server.gets('vocab.bpe') == [None]
    assert len(server.gets()) == 2
    assert contents(os.path.join(models, '124M')) == BODIES
    again = len(BODIES[WEIGHTS]) + len(BODIES['vocab.bpe'])
    assert (bars[1].initial, bars[1].n) == (TOTAL - again, TOTAL)


def test_resumes_a_part(server, models, bars):
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_000])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == ['bytes=60000-']
    assert contents(os.path.join(models, '124M')) == BODIES
    assert (bars[0].initial, bars[0].n, bars[0].total) == (60_000, TOTAL, TOTAL)


def test_a_complete_part_is_only_renamed(server, models, bars):
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS])
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == []
    assert contents(os.path.join(models, '124M')) == BODIES
    assert bars[0].n == TOTAL


def test_a_part_that_is_too_long_is_dropped(server, models, bars, capsys):
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS] + b'more')
    download('124M', models, server.url, HASTY)
    assert server.gets(WEIGHTS) == [None]
    assert contents(os.path.join(models, '124M')) == BODIES
    assert [(bar.initial, bar.n) for bar in bars] == [(0, TOTAL)]
    assert capsys.readouterr().out == f'{models}/124M: 0.1 MB to fetch of 0.1 MB\n'


def test_a_file_is_on_disk_before_it_has_its_name(server, models, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda *args: calls.append('fsync') or fsync(*args))
    monkeypatch.setattr(os, 'replace', lambda *args: calls.append('replace') or replace(*args))
    download('124M', models, server.url, HASTY)
    assert calls == ['fsync', 'replace'] * len(model_names.FILES)


def test_the_published_expectations():
    """A float32 checkpoint has four bytes for each parameter."""
    def parameters(n_layer, n_embd, n_vocab=50257, n_ctx=1024):
        block = 12 * n_embd ** 2 + 13 * n_embd
        return (n_vocab + n_ctx) * n_embd + n_layer * block + 2 * n_embd
    sizes = {'124M': (12, 768), '355M': (24, 1024), '774M': (36, 1280), '1558M': (48, 1600)}
    assert download_model.KNOWN_SIZES == {name: 4 * parameters(*size) for name, size in sizes.items()}
    assert all(re.fullmatch('[0-9a-f]{64}', value) for value in download_model.KNOWN_SHA256.values())
    assert sorted(download_model.ORDER) == sorted(model_names.FILES)


def test_a_disk_too_small_is_found_before_the_download(server, models, monkeypatch):
    usage = shutil.disk_usage('.')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=TOTAL - 60_001))
    with pytest.raises(UserError, match=rf'needs {TOTAL:,} bytes more, its disk has only {TOTAL - 60_001:,} free'):
        download('124M', models, server.url, HASTY)
    assert server.gets() == []
    write(os.path.join(models, '124M'), weights_part=BODIES[WEIGHTS][:60_001])      # which need no more space
    download('124M', models, server.url, HASTY)


@pytest.mark.parametrize('suffix', ['', '.part'])
def test_a_directory_in_place_of_a_file_is_found_before_the_download(server, models, suffix):
    os.makedirs(os.path.join(models, '124M', WEIGHTS + suffix))
    with pytest.raises(UserError, match=f'124M/{WEIGHTS}{suffix} is a directory, where a file of the model belongs: remove it'):
        download('124M', models, server.url, HASTY)
    assert server.gets() == [] and os.listdir(os.path.join(models, '124M')) == [WEIGHTS + suffix]


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_a_disk_that_fills_up(server, models):
    os.makedirs(os.path.join(models, '124M'))
    os.symlink('/dev/full', os.path.join(models, '124M', WEIGHTS + '.part'))
    with pytest.raises(UserError, match='cannot write .*124M: No space left on device; see --models_dir'):
        download('124M', models, server.url, HASTY)
    assert len(server.gets(WEIGHTS)) == 1
    assert WEIGHTS not in os.listdir(os.path.join(models, '124M'))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the script in this process and in tmp_path: (status, standard output, standard error)."""
    def script(*args):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', ['download_model.py', *args])
        capsys.readouterr()
        status = 0
        try:
            errors.run(download_model.main)
        except SystemExit as exit_:
            status = exit_.code
        return status, *capsys.readouterr()
    return script


def start(server, cwd, **kwargs):
    """Starts a process that runs the script with the sizes and checksums of the toy files."""
    code = (f'import sys; sys.path.insert(0, {os.path.dirname(SCRIPT)!r})\nimport download_model as d\n'
            'from command import errors\n'
            f'd.KNOWN_SIZES["124M"] = {len(BODIES[WEIGHTS])}\nd.KNOWN_SHA256 = {SHA256}\nd.CHUNK = 1000\n'
            'errors.run(d.main)')
    return subprocess.Popen([sys.executable, '-c', code, '124M', '--base_url', server.url], cwd=cwd, text=True,
                            stderr=subprocess.PIPE, env=os.environ | {'NO_PROXY': '127.0.0.1'}, **kwargs)


@pytest.mark.parametrize('args, names', [
    (['../124M'], "'../124M'"),
    ([], 'NAME'),
    (['124M', '--base_url', 'models.example/gpt-2'], "--base_url: expected an address such as https://"),
    (['124M', '--base_url', 'ftp://127.0.0.1/gpt-2'], "--base_url: expected .*'ftp://127.0.0.1/gpt-2'"),
    (['124M', '--base_url', 'http://127.0.0.1:port'], "--base_url: expected .*'http://127.0.0.1:port'"),
    (['124M', '--base_url', 'http://'], "--base_url: expected .*'http://'"),
    (['124M', '--base_url', 'http://a..b'], r'http://a\.\.b/models/124M/checkpoint'),
    (['124M', '--timeout', '0'], "--timeout: expected seconds, above 0 and at most 3600, not '0'"),
    (['124M', '--retries', '-1'], "--retries: expected a whole number, 0 or more, not '-1'"),
])
def test_a_wrong_command_is_one_line(tmp_path, run, args, names):
    status, output, error = run(*args)
    assert (status, output) == (2, '')
    assert re.fullmatch(f'download_model.py: .*{names}.*\n', error)
    assert os.listdir(tmp_path) == []


def test_an_unknown_name_is_one_line(tmp_path):
    result = subprocess.run([sys.executable, SCRIPT, '999M'], check=False, cwd=tmp_path, text=True, capture_output=True,
                            timeout=60)
    assert (result.returncode, result.stdout) == (2, '')
    assert result.stderr == ("download_model.py: no published model is called '999M'; there are 124M, 355M, 774M, "
                             "1558M, 117M, 345M\n")
    assert os.listdir(tmp_path) == []


def test_a_closed_port_is_one_line(server, tmp_path, run, monkeypatch):
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    server.shutdown()
    server.server_close()
    status, output, error = run('124M', '--base_url', server.url, '--retries', '1')
    url = f'{server.url}/models/124M/checkpoint'
    assert status == 2
    assert output == f'{url}: Connection refused; trying again in 1 s (1 of 1)\n'
    assert error == (f'download_model.py: cannot fetch {url}: Connection refused (tries: 2); run the same '
                             'command again to resume the download, or give another --base_url\n')
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('variable, value, words', [
    ('REQUESTS_CA_BUNDLE', 'nowhere.pem', 'invalid path: nowhere.pem; see the environment variables of the network, such as'),
    ('NETRC', 'latin-1.netrc', "can't decode byte 0xe9 .*; see the environment variables of the network"),
    ('HTTPS_PROXY', 'gopher://127.0.0.1', 'gopher'),
    ('HTTPS_PROXY', 'http://[::1', 'Failed to parse'),
    ('HTTPS_PROXY', f'http://{"a" * 70}.example', 'label'),
])
def test_wrong_settings_of_the_network_are_one_line(tmp_path, run, monkeypatch, variable, value, words):
    (tmp_path / 'latin-1.netrc').write_bytes('machine caf\xe9'.encode('latin-1'))
    for name in ('REQUESTS_CA_BUNDLE', 'CURL_CA_BUNDLE', 'NO_PROXY', 'no_proxy', 'HTTPS_PROXY', 'https_proxy'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    status, output, error = run('124M', '--base_url', 'https://127.0.0.1:1')
    assert (status, output) == (2, '')
    assert re.fullmatch(f'download_model.py: cannot fetch https://127.0.0.1:1/models/124M/checkpoint: .*{words}.*\n', error)
    assert os.listdir(tmp_path) == ['latin-1.netrc']


@pytest.mark.parametrize('location', ['http://[::1', 'ftp://127.0.0.1/', 'http://caf\xe9', f'http://{"a" * 70}.example'])
def test_a_redirection_to_no_address_is_one_line(server, tmp_path, run, location):
    server.misbehave = lambda request, *rest: request.reply(302, b'', Location=location) or True
    status, output, error = run('124M', '--base_url', server.url)
    assert (status, output, error.count('\n')) == (2, '', 1)
    assert error.startswith(f'download_model.py: cannot fetch {server.url}/models/124M/checkpoint: ')


def test_a_refusal_is_one_line(server, tmp_path, run):
    server.misbehave = lambda request, *rest: request.reply(403, XML, Content_Type='application/xml')
    status, output, error = run('124M', '--base_url', server.url + '/')
    assert (status, output) == (2, '')
    url = f'{server.url}/models/124M/checkpoint'
    assert error == (f'download_model.py: cannot fetch {url}: HTTP 403 Forbidden; if the models have moved, '
                             'give --base_url\n')
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(('models_dir', 'in_the_way'), [
    ('notes', 'notes'), ('notes/of/mine', 'notes'), ('dangling', 'dangling'), ('has/it/124M', 'has/it/124M')])
def test_a_models_dir_that_cannot_be_made_is_found_before_the_server_is_asked(server, tmp_path, run, models_dir, in_the_way):
    (tmp_path / 'notes').write_text('mine')
    (tmp_path / 'dangling').symlink_to('nowhere')
    (tmp_path / 'has' / 'it').mkdir(parents=True)
    (tmp_path / 'has' / 'it' / '124M').write_text('mine')
    models_dir = models_dir.removesuffix('/124M')
    status, output, error = run('124M', '--base_url', server.url, '--models_dir', models_dir)
    assert (status, output) == (2, '')
    assert error == (f'download_model.py: cannot write to {models_dir}/124M: {tmp_path / in_the_way} is not a directory; '
                             'see --models_dir\n')
    assert server.seen == []
    assert (tmp_path / 'notes').read_text() == 'mine'


def test_a_models_dir_without_permission_is_found_before_the_server_is_asked(server, models, monkeypatch):
    os.mkdir(models)
    asked = []
    # Root may write everywhere, so the test fakes the answer.
    monkeypatch.setattr(os, 'access', lambda *question: asked.append(question))
    with pytest.raises(UserError, match=f'cannot write to .*124M: there is no permission to write to {models}; see --models_dir'):
        download('124M', models, server.url, HASTY)
    assert asked == [(models, os.W_OK | os.X_OK)]
    assert server.seen == []


def test_a_complete_model_may_be_read_only(server, models, monkeypatch):
    download('124M', models, server.url, HASTY)
    monkeypatch.setattr(os, 'access', lambda *_: False)
    assert download('124M', models, server.url, HASTY) == os.path.join(models, '124M')


@pytest.mark.parametrize('models_dir, flag', [('models', ''), ('my models', " --models_dir 'my models'")])
def test_the_last_line_shows_the_next_command(server, tmp_path, run, models_dir, flag):
    status, output, _ = run('117M', '--base_url', server.url, '--models_dir', models_dir)
    assert status == 0
    directory = os.path.join(models_dir, '117M')
    assert output.splitlines()[1:] == [
        f'{directory}: {TOTAL / 1e6:.1f} MB to fetch of {TOTAL / 1e6:.1f} MB',
        f'{directory} is complete; next: PYTHONPATH=src ./train.py --model_name 117M{flag} --dataset YOUR_TEXT']
    assert contents(tmp_path / models_dir / '117M') == BODIES


def test_a_closed_pipe_is_not_a_disk_error(server, tmp_path):
    process = start(server, tmp_path, stdout=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == ''
    assert process.wait(timeout=60) == 141


@pytest.mark.skipif(os.name == 'nt', reason='no SIGINT to another process')
def test_ctrl_c_keeps_the_part(server, tmp_path, run):
    @only(WEIGHTS)
    def misbehave(request, file, body, start):
        request.reply(200, body, send=30_000)
        return server.released.wait()
    server.misbehave = misbehave
    process = start(server, tmp_path, stdout=subprocess.DEVNULL)
    part = tmp_path / 'models' / '124M' / (WEIGHTS + '.part')
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == ''
    assert process.returncode == 130
    kept = part.read_bytes()        # what had been received by then
    assert kept and BODIES[WEIGHTS][:30_000].startswith(kept)
    assert not (tmp_path / 'models' / '124M' / 'hparams.json').exists()

    server.misbehave = lambda *request: False
    server.seen.clear()
    assert run('124M', '--base_url', server.url)[0] == 0
    assert server.gets(WEIGHTS) == [f'bytes={len(kept)}-']
    assert contents(tmp_path / 'models' / '124M') == BODIES
