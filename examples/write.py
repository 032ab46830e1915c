"""Write text in the style of a file: a transformer and an n-gram of its characters.

    python examples/write.py [file]

Without a file, the text is the docstrings of Python's standard library. Both models learn from the
first nine tenths of the text, and the rest tests them. The n-gram counts in a few seconds; in its
two minutes the transformer does not catch up with it, but it improves with more passes.
"""

import ast
import sys
import sysconfig
from pathlib import Path

import jax

import jaxgen

LEARNT = 7_000_000  # characters in all passes of the transformer over the text
WINDOW = 64


def docstrings():
    """The ASCII docstrings of the modules, classes and functions of the standard library."""
    documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            if text and text.isascii():
                yield text + "\n\n"


if len(sys.argv) > 1:
    text = jaxgen.data.read_texts(sys.argv[1], lines=False)
else:
    text = "".join(docstrings())
vocabulary = jaxgen.data.tokenize(text).vocabulary
cut = len(text) * 9 // 10
train, test = text[max(cut - LEARNT, 0) : cut], text[cut:]
windows = jaxgen.data.tokenize(train, vocabulary=vocabulary, length=WINDOW)
print(f"{len(train):,} characters to learn from, {len(test):,} to test, {vocabulary.size} kinds")

network = jaxgen.networks.Transformer(64, layers=2)
transformer = jaxgen.fit(
    jaxgen.models.Autoregressive(network=network),
    windows,
    key=jax.random.key(0),
    epochs=max(LEARNT // len(train), 1),
    batch_size=8,  # many small steps, as there are few passes
    optimizer=jaxgen.training.Adam(4e-3, weight_decay=0.1, clip=1.0),
)
whole = jaxgen.data.tokenize(train, vocabulary=vocabulary, length=len(train))
ngram = jaxgen.fit(jaxgen.models.NGram(order=8), whole, key=jax.random.key(0))
for fitted in (transformer, ngram):
    print("\n", jaxgen.metrics.text_report(fitted, test, train=train), sep="")

start = test[test.find("\n\n", 0, -40) + 2 :][:40]
length = len(start) + 500
longer = transformer.replace(length=length, window=WINDOW)
for name, fitted in {
    "n-gram": ngram.replace(length=length),
    "transformer": longer,
    "transformer, temperature 0.7": longer.replace(temperature=0.7),
}.items():
    print(f"\n--- {name}\n{start}|{fitted.given(start).sample(jax.random.key(1), 1)[0]}")
