"""Built-in data sets, event tables, texts, model files, and the writer of all files.

>>> jaxgen.data.tokenize(["anna", "bob"]).tokens.shape
(2, 5)
"""

from jaxgen.data.text import Texts, Vocabulary, read_texts, tokenize

__all__ = ["Texts", "Vocabulary", "read_texts", "tokenize"]
