"""The command line: one thin file a command group, nothing heavy imported before a command runs."""
