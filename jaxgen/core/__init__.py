"""The base of all other packages: the contract of a model, its noise, and how it is run.

- The contract: ``model``, ``wrapper``, ``spec``, ``random``.
- Running a model over rows: ``batch`` (pure functions), ``engine`` (compiled blocks), ``compiler``.
- What a user passes, and errors about it: ``inputs``, ``places``, ``warn``.
- Arithmetic: ``numerics``, ``by_index``, ``lanes``, ``precision``, ``promotion``, ``sizes``.
"""
