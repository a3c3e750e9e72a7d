"""Launch: everything that knows of DeepSpeed, processes and hosts, and nothing that knows of towers.

``settings`` says what DeepSpeed is told, ``group`` is the process group (and works with one process),
``command`` builds the command lines that start many.
"""
