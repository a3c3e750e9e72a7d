"""Export formats: one module each, and nothing else in this folder.

A module defines ``FORMAT``, a function ``(shipped, folder, name)`` that writes what
:class:`~distill.ship.shipped.Shipped` holds into an empty folder, where ``name`` is what the folder will be called. It
raises ``UserError`` for students that the format cannot hold. Adding the file is all it takes; another installed
package adds a format through an entry point of the group ``distill.export_formats``.
"""
