"""Sources: one module a kind, and nothing else in this folder.

A module defines ``SOURCE``, a subclass of :class:`distill.data.packing.source.Source`, which recognises its kind by
what the source is, not by its name. Nothing but adding the file is needed; another installed package adds a kind
through an entry point of the group ``distill.sources``.
"""
