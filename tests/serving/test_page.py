"""The policy of the page: its own blocks and nothing else."""

import base64
import hashlib
import html.parser
import os
import re

from conftest import ROOT
from serving.page import policy, read_page

TEXT = '''<!DOCTYPE html><html><head><style>p { color: #123 }</style><title>x</title></head>
<body><p>a &lt; b</p><script>if (1 < 2 && "</p>") { let s = "<style>"; }</script>
<script type="module">
é()
</script></body></html>
'''


def hash_of(block):
    return f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"


def test_each_block_is_allowed_by_its_hash():
    blocks = ['if (1 < 2 && "</p>") { let s = "<style>"; }', '\né()\n']
    assert policy(TEXT).split('; ') == [
        "default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "connect-src 'self'",
        'img-src data:',
        f'script-src {" ".join(map(hash_of, blocks))}', f'style-src {hash_of("p { color: #123 }")}']


def test_a_page_without_blocks_runs_nothing():
    assert 'script-src' not in policy('<p>x</p>')


def test_the_page_loads_nothing_from_elsewhere_and_has_no_inline_handlers():
    """Which the policy would stop: the page would not work."""
    page = read_page()
    assert page.policy == policy(page.content.decode())
    attributes = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, found):
            attributes.extend((tag, *each) for each in found)
    Reader().feed(page.content.decode())
    for tag, name, value in attributes:
        assert not name.startswith('on') and name != 'style', (tag, name)
        assert not (name in ('src', 'href') and re.match(r'(https?:)?//', value or '')), (tag, value)
    with open(os.path.join(ROOT, 'src', 'serving', 'page.html'), encoding='utf-8') as file:
        assert 'innerHTML' not in file.read()
