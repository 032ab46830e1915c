"""Helpers that run the command line in the process of the tests."""

import re

import jax

from jaxgen import Fitted
from jaxgen.cli import main as cli
from jaxgen.models import MaskedAutoregressive


def run(*args):
    return cli.main([str(a) for a in args])


def fails(capsys, *args):
    """Run a command that must fail, and return the one line that it prints."""
    assert run(*args) == 2
    out, error = capsys.readouterr()
    assert re.fullmatch("jaxgen: error: .*\n", error)
    assert out == ""
    return error


def fails_last(capsys, *args):
    """Like ``fails``, and ignore what earlier commands printed."""
    capsys.readouterr()
    return fails(capsys, *args)


def conditional(shape):
    model = MaskedAutoregressive(2, 1, 4, 1, "affine", y_shape=shape)
    return Fitted(model, model.init(jax.random.key(0)), columns=("x", "y"))
