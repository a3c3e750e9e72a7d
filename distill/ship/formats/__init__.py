"""Export formats: one module each, and nothing else in this folder.

A module defines ``FORMAT``, a function ``(shipped, folder, name)`` that writes a
:class:`~distill.ship.contents.Shipped` to an empty folder; ``name`` is the name that the folder will have when it is
complete. It raises ``UserError`` for students that the format cannot hold. Nothing but adding the file is needed;
another installed package adds a format through an entry point of the group ``distill.export_formats``.
"""
