"""Export formats: one module each, and nothing else in this folder.

A module defines ``FORMAT``, an instance of a subclass of :class:`~distill.ship.export_format.ExportFormat`, which
writes a :class:`~distill.ship.contents.Shipped` to an empty folder, opens it again by the library that it is for, and
refuses students that it cannot hold. Nothing but adding the file is needed; another installed package adds a format
through an entry point of the group ``distill.export_formats``.
"""
