"""``Dataset``: the events of a folder of blocks, by index or in batches."""

from __future__ import annotations

import os
from pathlib import Path

from jaxgen.data.bulk import manifest as manifests


class Dataset:
    """Events in a folder that ``jaxgen.generate`` has filled."""

    def __init__(self, directory: str | os.PathLike[str]):
        manifest = manifests.read(Path(directory))
        if manifest is None:
            raise FileNotFoundError(f"{directory} holds no events of jaxgen.generate")
        self.directory, self.manifest = Path(directory), manifest

    @property
    def complete(self) -> bool:
        return self.manifest.complete
