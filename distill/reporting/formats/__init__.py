"""File formats of reports: one module each, whose ``FORMAT`` makes the text of the file from the facts about runs."""
