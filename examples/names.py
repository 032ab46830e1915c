"""First names, letter by letter: a transformer whose condition is the list, of girls or of boys.

    python examples/names.py [picture]

The model is tested on names that it has not seen, beside an n-gram and gzip. It draws names,
continues beginnings, classifies names, and finds the most surprising ones of the list.
"""

import sys

import jax
import numpy as np

import jaxgen

EPOCHS = 10
names = np.array(jaxgen.datasets.first_names())
sex = np.repeat(["girl", "boy"], [18_029, 14_004])
different = np.unique(names)  # 2,539 names are in both lists
held_out = np.random.default_rng(0).choice(different, 1000, replace=False)
train = ~np.isin(names, held_out)

network = jaxgen.networks.Transformer(64, layers=2)
fitted = jaxgen.fit(
    jaxgen.compose.Labelled(jaxgen.models.Autoregressive(network=network)),
    names[train],
    sex[train],
    key=jax.random.key(0),
    epochs=EPOCHS,
    batch_size=128,
    optimizer=jaxgen.training.Adam(4e-3, weight_decay=0.1, clip=1.0),
    validation=0.02,
)
key = jax.random.key(1)
print(jaxgen.metrics.text_report(fitted, held_out, train=names[train], key=key))

known = set(names)
for label in ("girl", "boy"):
    drawn = fitted.sample(key, 1000, label)
    new = [name for name in dict.fromkeys(drawn) if name not in known]
    print(
        f"\n{label}s: {np.isin(drawn, names).mean():.0%} of draws are in the list; new:", *new[:12]
    )
for start in ("mar", "jo", "x"):
    print(f"{start}-:", *(start + rest for rest in fitted.given(start).sample(key, 10)))

print("\np(girl | name):")
girl = fitted.labels.index("girl")
for name in ("emma", "noah", "charlie", "riley", "jordan", *held_out[:3]):
    lists = " and ".join(f"{label}s" for label in fitted.labels if label in sex[names == name])
    print(f"  {name:<10} {np.exp(fitted.classify([name])[0, girl]):.2f}  (in the list of {lists})")

scores = jaxgen.metrics.text_scores(fitted, different)
order = np.argsort(-scores.total_bits)
print("\nleast probable names:", *different[order[:10]])
print("most probable names: ", *different[order[-10:]])
path = sys.argv[1] if len(sys.argv) > 1 else "names.png"
scores.plot(path, rows=[*order[:15], *order[500:15_000:500]])
print(f"\npicture of the bits of each letter written to {path}")
