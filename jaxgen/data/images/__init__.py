"""Images: files of them, their levels as events of models, and files of what models draw.

>>> found = jaxgen.data.read_images(images.astype(np.uint8))
>>> found.images.shape
(20, 28, 28)
"""

from jaxgen.data.images.pixel_format import PixelFormat
from jaxgen.data.images.reading import Images, holds_images, image_files, read_images
from jaxgen.data.images.writing import check_images_output, grid, write_images

__all__ = [
    "Images",
    "PixelFormat",
    "check_images_output",
    "grid",
    "holds_images",
    "image_files",
    "read_images",
    "write_images",
]
