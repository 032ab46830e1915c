"""Texts: files of them, vocabularies, and tokens as events of models of sequences.

>>> texts = jaxgen.data.tokenize(["anna", "bob"])
>>> texts.tokens.shape, texts.vocabulary.size
((2, 5), 4)
"""

from jaxgen.data.text.reading import read_texts, text_places
from jaxgen.data.text.texts import (
    Texts,
    holds_texts,
    sequence_in,
    strings_of,
    tokenize,
    tokens_of,
)
from jaxgen.data.text.vocabulary import KINDS, Vocabulary

__all__ = [
    "KINDS",
    "Texts",
    "Vocabulary",
    "holds_texts",
    "read_texts",
    "sequence_in",
    "strings_of",
    "text_places",
    "tokenize",
    "tokens_of",
]
