"""First names given to babies, as texts."""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).with_name("first_names.txt")


def first_names() -> list[str]:
    """32,033 first names of 2 to 15 letters, those of babies in the United States in 2018.

    Each name was given to at least five babies of a sex. First come 18,029 names of girls and then
    14,004 names of boys, each by frequency; 2,539 names are among both, so 29,494 are different.
    All letters are lower case, a to z.

    Source: US Social Security Administration, national data on baby names
    (https://www.ssa.gov/oact/babynames), in the public domain, as the file ``names.txt`` of
    https://github.com/karpathy/makemore (commit 988aa59, MIT licence), unchanged.

    >>> names = jaxgen.datasets.first_names()
    >>> len(names), names[:3]
    (32033, ['emma', 'olivia', 'ava'])
    """
    return FILE.read_text("ascii").split()
