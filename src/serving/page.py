"""The page, and the policy by which browsers run only its own script."""

import base64
import hashlib
import html.parser
import os
from typing import NamedTuple

NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Page(NamedTuple):
    """content: UTF-8. policy: the value of the header Content-Security-Policy."""
    content: bytes
    policy: str


class _Blocks(html.parser.HTMLParser):
    """Collects the content of each <script> and <style>."""

    def __init__(self):
        super().__init__()
        self.found, self._open = {'script': [], 'style': []}, None

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag in self.found:
            self._open = tag
            self.found[tag].append('')

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found[self._open][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._open = None if tag == self._open else self._open


def read_page() -> Page:
    """The page next to this file."""
    with open(os.path.join(os.path.dirname(__file__), 'page.html'), encoding='utf-8') as file:
        text = file.read()      # with \n for line breaks, as a browser hashes a block
    return Page(text.encode(), policy(text))


def policy(text: str) -> str:
    """The policy that allows the blocks of a page by their hashes, and requests to its own server."""
    blocks = _Blocks()
    blocks.feed(text)
    blocks.close()
    hashes = {tag: ' '.join(f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'" for block in found)
              for tag, found in blocks.found.items()}
    allowed = ''.join(f'; {tag}-src {values}' for tag, values in hashes.items() if values)
    return f"{NOTHING}; connect-src 'self'; img-src data:{allowed}"      # data: for the icon that is part of the page
