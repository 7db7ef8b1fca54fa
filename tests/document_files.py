"""What the tests of reading files share: a file's documents, and its error."""

import pytest

from command.errors import UserError
from corpus.read_text import TextFormat, read_documents


def documents(path, **format):
    found = ['']
    for text, ends in read_documents(str(path), TextFormat(**format)):
        found[-1] += text
        if ends:
            found.append('')
    assert found.pop() == ''
    return found


def error_of(path, content, **format):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        documents(path, **format)
    message = str(error.value)
    assert message.startswith(str(path)) and '\n' not in message
    return message.removeprefix(str(path))
