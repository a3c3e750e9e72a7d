"""Reports: what a run learned, as one file to read.

``facts.py`` holds what is known of a run, and ``collect.py`` gathers it; ``sections/`` turns it into paragraphs,
tables, plots and pictures (``blocks.py``), which a format of ``formats/`` writes. The room is called ``reporting``
because ``distill.report`` is a function, and importing a submodule of that name would replace it.
"""
