"""Reading of text files and of folders that hold them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def read_texts(
    path: str | os.PathLike[str],
    *,
    lines: bool = True,
    labels: bool = False,
    encoding: str = "utf-8",
) -> Any:
    r"""The texts of a file, or of all files that end in .txt under a folder, in sorted order.

    Ends of lines become "\n", and a byte order mark of UTF-8 is left out. All other characters are
    kept, the control character NUL too.

    Args:
      path: a file with any ending, or a folder.
      lines: whether a text is a line; blank lines are left out. Otherwise a text is a file.
      labels: whether to return labels too: that of a text is the name of the folder in ``path``
        that its file is in, or the name of the file without .txt if it is in ``path`` itself.
      encoding: the encoding of the files. "latin-1" reads any file, each byte as a character.

    Returns:
      A list of str, or one str for a file that is one text; with ``labels`` a tuple of the list
      and a list of the labels.

    Raises:
      OSError: there is no such file, or it cannot be read.
      ValueError: a file is empty or is not in the encoding, a folder has no files that end in
        .txt, or labels are asked of a file; the message names the file, and the place in it.
      LookupError: the encoding is unknown.

    >>> _ = open("greetings.txt", "w").write("hello\n\nbonjour\n")
    >>> read_texts("greetings.txt")
    ['hello', 'bonjour']
    >>> read_texts("greetings.txt", lines=False)
    'hello\n\nbonjour\n'
    """
    path = Path(path)
    if not path.is_dir():
        if labels:
            raise ValueError(f"{path}: labels are the names of folders, and this is no folder")
        texts = _texts(path, lines, encoding)
        return texts if lines else texts[0]
    texts = []
    names: list[str] = []
    for file in _files(path):
        found = _texts(file, lines, encoding)
        first = file.relative_to(path).parts[0]
        texts += found
        names += [first.removesuffix(".txt") if file.parent == path else first] * len(found)
    return (texts, names) if labels else texts


def text_places(
    path: str | os.PathLike[str], *, lines: bool = True, encoding: str = "utf-8"
) -> list[tuple[Path, int]]:
    r"""The file of each text that ``read_texts`` returns, and the number of its line, from 1 on.

    Arguments and errors are those of ``read_texts``; without ``lines`` all numbers are 1.

    >>> _ = open("greetings.txt", "w").write("hello\n\nbonjour\n")
    >>> [line for _, line in text_places("greetings.txt")]
    [1, 3]
    """
    places = []
    for file in _files(Path(path)) if Path(path).is_dir() else [Path(path)]:
        (text,) = _texts(file, False, encoding)
        found = text.split("\n") if lines else [text]
        places += [
            (file, number) for number, one in enumerate(found, 1) if one.strip() or not lines
        ]
    return places


def _files(folder: Path) -> list[Path]:
    """The files that end in .txt under a folder, in sorted order."""
    files = sorted(file for file in folder.rglob("*.txt") if file.is_file())
    if not files:
        raise ValueError(f"{folder}: the folder must hold files that end in .txt, it has none")
    return files


def _texts(path: Path, lines: bool, encoding: str) -> list[str]:
    """The lines of a file, or the whole file."""
    raw = path.read_bytes()
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].decode(encoding).count("\n") + 1
        raise ValueError(
            f"{path}: not in {encoding}: byte 0x{raw[error.start]:02x} at offset "
            f"{error.start:,} (line {line:,}): {error.reason}; give the encoding of the file; "
            "latin-1 reads each byte as a character"
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    texts = [line for line in text.split("\n") if line.strip()] if lines else [text]
    if not texts or not text:
        what = "the file is empty" if not text else "all lines are blank"
        raise ValueError(f"{path}: must hold text, but {what}")
    return texts
