"""``distill demo``: the whole pipeline on real emoji, from data to export, in minutes on two CPU cores."""
