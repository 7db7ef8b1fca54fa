"""How the 256 bytes are spelled as printable characters in `encoder.json` and `vocab.bpe`."""



END_OF_TEXT = '<|endoftext|>'


def byte_characters() -> dict[int, str]:
    """The printable character that stands for each of the 256 bytes, in the order of their ids.

    Bytes that Latin-1 shows as a visible character stand for themselves; the others (controls, spaces, the soft
    hyphen) take the characters from U+0100 on, in turn: 'a' -> 'a', 'é' -> 'Ã©', ' ' -> 'Ġ', newline -> 'Ċ'.
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
