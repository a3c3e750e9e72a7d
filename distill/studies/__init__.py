"""Studies: a recipe trained in variants and with several seeds, and a table of the differences.

The room is not called ``study`` because ``distill.study`` is a function, and importing a submodule of that name would
replace it.
"""
