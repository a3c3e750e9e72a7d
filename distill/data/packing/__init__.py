"""``distill data pack``: from the ways in which people keep pictures and captions to shards.

``sources/`` has one file for each kind of source. A source gives rows (``row.py``), ``samples.py`` makes one sample of
the rows of each picture and puts them in hashed order, ``choice.py`` says which pictures are left out and which are
for testing, ``shard_writer.py`` writes them, and ``run.py`` is the whole.
"""
