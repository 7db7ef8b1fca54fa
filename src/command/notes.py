"""Notes that are printed once in a process."""

_printed = set()


def print_once(subject: str, text: str) -> None:
    """Prints a text, unless another one about this subject was printed before."""
    if subject not in _printed:
        _printed.add(subject)
        print(text, flush=True)
