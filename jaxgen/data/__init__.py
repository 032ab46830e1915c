"""Built-in data sets, event tables, texts, images, model files, and the writer of all files.

>>> jaxgen.data.tokenize(["anna", "bob"]).tokens.shape
(2, 5)
"""

from jaxgen.data.images import Images, PixelFormat, grid, read_images, write_images
from jaxgen.data.text import Texts, Vocabulary, read_texts, tokenize

__all__ = [
    "Images",
    "PixelFormat",
    "Texts",
    "Vocabulary",
    "grid",
    "read_images",
    "read_texts",
    "tokenize",
    "write_images",
]
