"""Which row of a batch each text has, as texts join and leave it."""

from collections.abc import Iterator

from sampling.continuation import Continuation


class Rows:
    """The texts that are written together, at most `most`.

    texts: the text of each row, or None. The number of rows is `most`, or the smallest of its halves (of 8: 4, 2, 1) that has
    room for all texts: each number of rows is a shape, for which programs are compiled once.
    """

    def __init__(self, most: int):
        self.most, self.texts = most, []

    def __iter__(self) -> Iterator[Continuation]:
        return (text for text in self.texts if text is not None)

    def __len__(self) -> int:
        return sum(text is not None for text in self.texts)

    def join(self, text: Continuation) -> None:
        """Gives a text the first free row, or a new one. There must be fewer than `most` texts."""
        if None in self.texts:
            self.texts[self.texts.index(None)] = text
        else:
            self.texts.append(text)
        text.cached = False

    def leave(self, text: Continuation) -> None:
        """Frees the row of a text, which keeps what it has."""
        self.texts[self.texts.index(text)] = None

    def fit(self) -> list[int]:
        """Changes the number of rows to what the texts need. Returns, for the first ones, which rows they were before."""
        size = self.most
        while size // 2 >= max(len(self), 1):
            size //= 2
        kept = [row for row, text in enumerate(self.texts) if text is not None or size >= len(self.texts)]
        self.texts = [self.texts[row] for row in kept] + [None] * (size - len(kept))
        return kept
