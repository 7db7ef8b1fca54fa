"""What the tests of corpora share: reading in small blocks."""

import pytest

from corpus import read_text


@pytest.fixture(params=[1, 2, 3, 7, 1 << 18])
def block(request, monkeypatch):
    """Files are read this many bytes at a time."""
    monkeypatch.setattr(read_text, 'BLOCK', request.param)
    return request.param
