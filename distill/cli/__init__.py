"""The command line: one thin module per command group; heavy imports happen when a command runs."""
