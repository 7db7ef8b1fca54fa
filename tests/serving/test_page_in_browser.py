"""The page in a real browser: headless Chromium, driven by Playwright, by mouse and by keyboard, at two widths."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from fake_completions import STORY, FakeCompletions
from optional import SERVE, needs

sync_api = needs('playwright.sync_api')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium: apt-get install chromium')

PROMPT = 'Once upon a time'
WRITTEN = ''.join(text for _, text in STORY)
WIDTHS = {'desktop': (1280, 860), 'phone': (360, 740), 'picture': (800, 860)}


@pytest.fixture(scope='module')
def windows():
    """Width -> a page of a browser, and what went wrong on it; made once, as each takes a while."""
    sync_api.expect.set_options(timeout=60_000)      # of a busy machine
    with sync_api.sync_playwright() as playwright:
        # Without a sandbox, which Chromium refuses to root, and containers often lack; it only opens the page of this test.
        browser, made = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox']), {}

        def window(width):
            if width not in made:
                size = dict(zip(('width', 'height'), WIDTHS[width]))
                page, wrong = browser.new_context(viewport=size, has_touch=width == 'phone').new_page(), []
                page.on('console', lambda message: wrong.append(message.text) if message.type in ('error', 'warning') else None)
                page.on('pageerror', lambda error: wrong.append(str(error)))
                page.on('request', lambda request: wrong.append(request.url))
                made[width] = page, wrong
            return made[width]

        yield window
        browser.close()


@pytest.fixture
def server():
    server = FakeCompletions()
    yield server
    server.stop()


@contextlib.contextmanager
def opened(window, address, accepted=()):
    """The page at an address, in a window. Afterwards: it reported no error but those accepted, and asked nobody else."""
    page, wrong = window
    wrong.clear()
    page.goto(address)
    yield page
    allowed = (address, 'data:', 'blob:')
    assert [each for each in wrong if not each.startswith(allowed) and not any(part in each for part in accepted)] == []
    page.emulate_media(color_scheme='light')


@pytest.fixture(params=('desktop', 'phone'))
def page(request, windows, server):
    with opened(windows(request.param), server.address) as page:
        yield page


def area(page):
    return page.get_by_label('Your text')


def text(page):
    return area(page).input_value()


def button(page, name):
    return page.get_by_role('button', name=name, exact=True)


def status(page, expected):
    """Waits for the status."""
    sync_api.expect(page.get_by_role('status')).to_contain_text(expected)


def generate(page, prompt=PROMPT):
    area(page).fill(prompt)
    page.keyboard.press('Control+Enter')
    status(page, 'a second')


def token(page, spelling):
    return page.locator('.token').get_by_text(spelling, exact=True).first


def hover(page, spelling):
    box = token(page, spelling).bounding_box()
    page.mouse.move(box['x'] + box['width'] / 2, box['y'] + box['height'] / 2)
    sync_api.expect(page.locator('#popup')).to_be_visible()


def test_it_writes_into_the_text_and_undoes_exactly(page, server):
    generate(page)
    assert text(page) == PROMPT + WRITTEN
    body = server.requests[0]
    assert (body['prompt'], body['model'], body['max_tokens'], body['top_k'], body['stream']) == (PROMPT, 'fake', 60, 40, True)
    assert 'top_p' not in body and 'seed' not in body
    button(page, 'Undo').click()
    assert text(page) == PROMPT
    assert page.locator('.token').count() == 0
    button(page, 'Redo').click()
    assert text(page) == PROMPT + WRITTEN
    assert page.locator('.token').count() == len(STORY) - 1     # é is one element of two tokens
    area(page).press('Control+z')
    assert text(page) == PROMPT
    area(page).press('Control+Shift+z')
    assert text(page) == PROMPT + WRITTEN


def test_generated_html_is_text(page):
    generate(page, '<b>bold</b><script>alert(1)</script>')
    assert '<img src=x onerror=alert(1)>' in text(page)
    hover(page, ' <img')
    assert page.locator('#popup').inner_text().startswith('␣<img')
    assert page.locator('img, b, script').count() == 1          # the page's own script


def test_stopping_keeps_what_came(page, server):
    server.delay = 0.2
    area(page).fill(PROMPT)
    button(page, 'Generate').click()
    token(page, ' was').wait_for()
    page.keyboard.press('Escape')
    status(page, 'Stopped after')
    stopped = text(page)
    assert (PROMPT + WRITTEN).startswith(stopped) and len(stopped) < len(PROMPT + WRITTEN)
    button(page, 'Generate').click()
    page.locator('.token').nth(4).wait_for()
    button(page, 'Stop').click()
    status(page, 'Stopped after')
    page.wait_for_timeout(500)
    assert server.stopped == 2
    button(page, 'Undo').click()
    assert text(page) == stopped


def test_an_alternative_chosen_with_the_mouse(page, server):
    generate(page)
    hover(page, ' a')
    popup = page.locator('#popup')
    assert [line for line in popup.locator('li').all_inner_texts() if 'part of a character' in line]
    # In the order of their probabilities, which that of a JSON object's keys is not: " 7" would not, but "7" would come first.
    assert [name.split()[0].strip('␣') for name in popup.locator('li').all_inner_texts()][:2] == ['never', 'a']
    popup.get_by_role('button', name='never').click()
    status(page, 'a second')
    assert server.requests[1]['prompt'] == f'{PROMPT} there was never'
    assert text(page) == f'{PROMPT} there was never{WRITTEN}'
    hover(page, ' was')
    page.mouse.move(2, 2)
    sync_api.expect(popup).to_be_hidden()
    button(page, 'Undo').click()
    assert text(page) == PROMPT + WRITTEN
    sync_api.expect(popup).to_be_hidden()


def test_an_alternative_chosen_with_the_keyboard(page, server):
    generate(page)
    area(page).press('Control+Home')
    page.keyboard.press('Tab')
    popup, focused = page.locator('#popup'), page.locator(':focus')
    assert focused.text_content() == ' there'
    page.keyboard.press('ArrowRight')
    assert focused.text_content() == ' was'
    sync_api.expect(page.get_by_role('group', name='Alternatives to was')).to_be_visible()
    assert page.locator('.token[tabindex="0"]').count() == 1
    page.keyboard.press('ArrowDown')
    page.keyboard.press('ArrowDown')
    assert 'never' in focused.inner_text()
    page.keyboard.press('Escape')
    sync_api.expect(popup).to_be_hidden()
    assert focused.get_attribute('id') == 'text'
    page.keyboard.press('Tab')
    assert focused.text_content() == ' was'
    page.keyboard.press('Enter')
    page.keyboard.press('ArrowDown')
    page.keyboard.press('Enter')
    status(page, 'a second')
    assert server.requests[1]['prompt'] == f'{PROMPT} there never'
    assert focused.text_content() == ' never'


def test_a_tap_shows_the_alternatives_without_the_keyboard(windows, server):
    with opened(windows('phone'), server.address) as page:
        area(page).fill(PROMPT)
        button(page, 'Generate').tap()
        status(page, 'a second')
        box = token(page, ' was').bounding_box()
        page.touchscreen.tap(box['x'] + 8, box['y'] + 8)
        sync_api.expect(page.locator('#popup')).to_be_visible()
        assert page.locator(':focus').get_attribute('id') == 'generate'
        page.touchscreen.tap(box['x'] + 8, box['y'] + 8)
        assert page.locator(':focus').get_attribute('id') == 'text'


def test_editing_drops_only_the_tokens_that_it_touches(page):
    generate(page)
    tokens = page.locator('.token')
    before = tokens.all_text_contents()
    at = text(page).index(' was') + 2
    area(page).evaluate('(area, at) => area.setSelectionRange(at, at)', at)
    page.keyboard.type('xx')
    assert tokens.all_text_contents() == [spelling for spelling in before if spelling != ' was']
    assert 'wxxas a <img' in text(page)
    area(page).press('Control+Home')
    page.keyboard.type('So: ')
    assert len(tokens.all_text_contents()) == len(before) - 1
    assert page.locator('#tokens').text_content().rstrip('\u200b') == text(page)
    button(page, 'Undo').click()
    assert text(page) == PROMPT
    button(page, 'Redo').click()
    assert text(page).startswith(f'So: {PROMPT} there wxxas')


def test_the_tokens_lie_where_the_text_is(page):
    """The lower layer is broken into as many lines as the text, and is as high."""
    long = ' '.join(f'{word}  unfathomable,\tand{"so" * (i % 9)} on;' for i, word in enumerate(['fjord', 'Wave', 'AVAIL'] * 40))
    generate(page, long + '\n\n' + 'x' * 300 + '   \n')
    height, scrolled = page.evaluate('''() => {
        const [area, mirror] = ['text', 'tokens'].map(id => document.getElementById(id));
        area.style.minHeight = mirror.style.minHeight = 0;
        area.style.height = 0;
        return [mirror.offsetHeight, area.scrollHeight];
    }''')
    assert height == scrolled > 1000
    assert page.evaluate('document.documentElement.scrollWidth - innerWidth') <= 0


CONTRAST = '''elements => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const over = (...colours) => {
        colours.forEach(colour => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); });
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = colour => colour.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const style = name => getComputedStyle(document.getElementById(name));
    const paper = style('sheet').backgroundColor;
    return elements.map(element => {
        const [a, b] = [light(over(paper, getComputedStyle(element).backgroundColor)), light(over(style('text').color))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    });
}'''


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_surprise_tints_the_tokens_and_leaves_them_readable(windows, server, scheme):
    with opened(windows('desktop'), server.address) as page:
        page.emulate_media(color_scheme=scheme)
        generate(page)
        plain = page.locator('.token').evaluate_all(CONTRAST)
        page.get_by_label('Show surprise').check()
        tinted = page.locator('.token').evaluate_all(CONTRAST)
        assert len(set(plain)) == 1
        assert min(tinted) < max(tinted) < plain[0]
        assert min(tinted) >= 4.5
        assert token(page, ' there').get_attribute('aria-label') == 'there, 90 %, surprise 0.1'


def test_settings_reach_the_server(page, server):
    for name, value in (('Temperature', '0'), ('Length', '5'), ('Top-k', '0'), ('Top-p', '0.9')):
        page.get_by_role('slider', name=name).fill(value)
    page.get_by_text('More', exact=True).click()
    page.get_by_label('Seed').fill('7')
    area(page).fill(PROMPT)
    button(page, 'Generate').click()
    status(page, '5 tokens')
    body = server.requests[0]
    assert {name: body[name] for name in ('temperature', 'max_tokens', 'top_p', 'seed')} == {
        'temperature': 0, 'max_tokens': 5, 'top_p': 0.9, 'seed': 7}
    assert 'top_k' not in body
    page.reload()
    assert page.get_by_label('Seed').input_value() == '7'
    assert text(page) == PROMPT + ''.join(written for _, written in STORY[:5])


def test_an_empty_text_is_said_to_start_a_new_one(page, server):
    server.delay = 0.1
    button(page, 'Generate').click()
    status(page, 'The text is empty: the model begins a new one.')
    status(page, 'The text was empty, so the model began a new one.')
    assert server.requests[0]['prompt'] == ''
    assert text(page) == WRITTEN


@pytest.fixture
def failing(windows, server):
    with opened(windows('desktop'), server.address, accepted=['Failed to load resource', 'net::ERR']) as page:
        yield page


def test_a_full_queue(failing, server):
    server.errors.append((503, {'message': 'the queue is full', 'type': 'server_error'}, {'Retry-After': '3'}))
    area(failing).fill(PROMPT)
    button(failing, 'Generate').click()
    status(failing, 'The queue is full. Press Generate again in 3 seconds.')
    assert text(failing) == PROMPT
    sync_api.expect(button(failing, 'Undo')).to_be_disabled()


def test_too_long_a_prompt(failing, server):
    error = {'message': 'the prompt has 2000 tokens, the window holds 1024: shorten it', 'code': 'context_length_exceeded'}
    too_long = (400, error, {})
    server.errors += [too_long, too_long]
    area(failing).fill('word ' * 2000)
    button(failing, 'Generate').click()
    status(failing, 'The prompt has 2000 tokens, the window holds 1024: shorten it. Or let the model')
    button(failing, 'Read only the end').click()
    status(failing, 'The model read the last')
    sent = [body['prompt'] for body in server.requests]
    assert sent[0].endswith(sent[1]) and sent[1].endswith(sent[2])
    assert len(sent[0]) > 1.9 * len(sent[1]) > 3.8 * len(sent[2]) > 1000
    assert text(failing) == 'word ' * 2000 + WRITTEN


def test_a_token_that_is_wanted(failing, server):
    server.token = 'secret'
    failing.reload()
    for given, answer in (('guess', 'That was not the token'), ('secret', None)):
        failing.locator('#token').fill(given)
        failing.keyboard.press('Enter')
        if answer:
            sync_api.expect(failing.get_by_role('dialog')).to_contain_text(answer)
    sync_api.expect(failing.get_by_role('dialog')).to_be_hidden()
    generate(failing)
    assert text(failing) == PROMPT + WRITTEN
    assert failing.evaluate('[localStorage.length, sessionStorage.getItem("token"), document.cookie]') == [0, 'secret', '']


def test_a_connection_that_breaks_off(failing, server):
    server.breaks_after = 2
    area(failing).fill(PROMPT)
    button(failing, 'Generate').click()
    status(failing, 'The connection to the server broke off. What came until then, 2 tokens, is kept.')
    assert text(failing) == f'{PROMPT} there was'


def test_a_server_that_is_gone(failing, server):
    generate(failing)
    server.stop()
    hover(failing, ' a')
    failing.locator('#popup').get_by_role('button', name='never').click()
    status(failing, 'The server does not answer. Is serve.py still running?')
    assert text(failing) == PROMPT + WRITTEN        # although choosing an alternative had cut it


def test_saving(page):
    generate(page)
    with page.expect_download() as download:
        button(page, 'Save').click()
    assert download.value.suggested_filename == 'fake.txt'
    with open(download.value.path(), encoding='utf-8') as file:
        assert file.read() == PROMPT + WRITTEN


def test_everything_has_a_name(page):
    generate(page)
    page.get_by_text('More', exact=True).click()
    names = page.locator('button, input, textarea, .token, [role=group]').evaluate_all('''elements => elements.map(
        e => [e.outerHTML, e.getAttribute("aria-label") ?? e.labels?.[0]?.textContent
              ?? e.textContent])''')
    assert [element for element, name in names if not name.strip()] == []
    assert len(names) > 25


@pytest.fixture
def serving(tmp_path):
    """The address of a serve.py with models/tiny, in a process of its own."""
    needs('starlette', SERVE)
    needs('uvicorn', SERVE)
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    with open(tmp_path / 'log', 'w+', encoding='utf-8') as log:
        command = [sys.executable, 'serve.py', '--model_name', 'tiny', '--port', str(port)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            while 'http://' not in (tmp_path / 'log').read_text():
                assert process.poll() is None, (tmp_path / 'log').read_text()
                time.sleep(0.1)
            yield f'http://127.0.0.1:{port}/'
        finally:
            process.terminate()
            process.wait()


def test_with_the_server_itself(windows, serving):
    """With PAGE_PICTURE=FILE, also makes the picture in the README."""
    with opened(windows('picture'), serving, accepted=['status of 400']) as page:
        sync_api.expect(page.get_by_role('heading')).to_have_text('Write, and tiny continues')
        page.get_by_text('More', exact=True).click()
        page.get_by_label('Seed').fill('3')
        page.get_by_text('More', exact=True).click()
        page.get_by_label('Show surprise').check()
        prompt = 'KING RICHARD:\nMy lords, I know not what'
        generate(page, prompt)
        written = text(page).removeprefix(prompt)
        assert ''.join(page.locator('.token').all_text_contents()) == written
        area(page).press('Control+End')
        for key in ('Tab', 'End', *['ArrowLeft'] * 4, 'ArrowDown', 'ArrowDown'):
            page.keyboard.press(key)
        choices = page.locator('#choices li').all_inner_texts()
        shares = [float(choice.split()[-2]) for choice in choices]
        assert len(choices) in (5, 6) and shares == sorted(shares, reverse=True) and 1 < sum(shares) <= 100.5
        if os.environ.get('PAGE_PICTURE'):
            page.evaluate('scrollTo(0, 0)')
            page.screenshot(path=os.environ['PAGE_PICTURE'])
        chosen = page.locator(':focus').inner_text().split('\n')[0].replace('␣', ' ').replace('↵', '\n')
        kept = ''.join(page.locator('.token').all_text_contents()[:-5])
        page.keyboard.press('Enter')
        status(page, 'a second')
        assert text(page).startswith(prompt + kept + chosen)
        assert text(page) != prompt + written
        button(page, 'Undo').click()
        assert text(page) == prompt + written
        page.get_by_role('slider', name='Length').fill('5')
        area(page).fill('Long ago. ' * 200)
        button(page, 'Generate').click()
        button(page, 'Read only the end').click()
        status(page, '5 tokens. The model read the last')
