"""Tables of events in files, one row for each event; the ending of a path sets the format.

>>> jaxgen.data.tables.read("events.csv").columns
('latitude', 'longitude')
"""

from jaxgen.data.tables.files import (
    FORMATS,
    cells,
    check_output,
    endings,
    extra_arrays,
    holds_names,
    is_table,
    is_text,
    names,
    read,
    row_name,
    row_numbers,
    write,
)
from jaxgen.data.tables.records import (
    Format,
    NotANumber,
    Reading,
    Selection,
    Table,
    UnknownColumn,
)

__all__ = [
    "FORMATS",
    "Format",
    "NotANumber",
    "Reading",
    "Selection",
    "Table",
    "UnknownColumn",
    "cells",
    "check_output",
    "endings",
    "extra_arrays",
    "holds_names",
    "is_table",
    "is_text",
    "names",
    "read",
    "row_name",
    "row_numbers",
    "write",
]
