"""Spells the 256 bytes as printable characters, as GPT-2's files do."""

END_OF_TEXT = '<|endoftext|>'


def byte_characters() -> dict[int, str]:
    """The printable character that stands for each of the 256 bytes, in the order of their ids.

    A byte that is a visible character in Latin-1 is spelled as that character; the others (controls, spaces, the soft
    hyphen) are spelled as the characters from U+0100 on: 'a' -> 'a', 'é' -> 'Ã©', ' ' -> 'Ġ', newline -> 'Ċ'.
    """
    visible = [byte for byte in range(256) if chr(byte).isprintable() and not chr(byte).isspace()]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


BYTE_CHARACTERS = byte_characters()
CHARACTER_BYTES = {ord(character): byte for byte, character in BYTE_CHARACTERS.items()}      # for str.translate


def spell(piece: str) -> str:
    """One character for each UTF-8 byte: ' café' -> 'ĠcafÃ©'. Raises UnicodeEncodeError for a lone surrogate."""
    return piece.encode().decode('latin-1').translate(BYTE_CHARACTERS)


def well_formed(text: str) -> str:
    """Joins pairs of surrogates and turns lone ones, which UTF-8 cannot hold, into U+FFFD: 'a\\ud83d' -> 'a\\ufffd'."""
    return text.encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace')
