"""The training data, and what could not be used of them."""

from __future__ import annotations

from collections.abc import Sequence

from distill.reporting.blocks import Block, Cell, Table, Text
from distill.reporting.facts import Language, Ledger, RunFacts
from distill.reporting.numbers import count, percent


def blocks(runs: Sequence[RunFacts]) -> list[Block]:
    """Counts of all runs in one table; languages and reasons of those that differ."""
    several = len(runs) > 1
    rows = {
        "samples": [count(run.ledger.samples) for run in runs],
        "pictures without captions": [count(run.ledger.pictures) if run.ledger.pictures else "–" for run in runs],
        "shards": [count(run.ledger.shards) if run.ledger.shards else "streams" for run in runs],
        "samples that could not be used": [bad_text(run.ledger) for run in runs],
        "rows left out when packing": [left_out_text(run.ledger) for run in runs],
        "captions looked at": [count(run.ledger.captions) if run.ledger.captions else "–" for run in runs],
        "with the tokens of another caption": [
            "–" if run.ledger.become_equal is None else count(run.ledger.become_equal) for run in runs
        ],
        "steps skipped (not finite)": [count(run.ledger.skipped) for run in runs],
        "spikes of the loss": [count(run.ledger.spikes) for run in runs],
    }
    cells: list[list[Cell]] = [[name, *values] for name, values in rows.items() if any(v != "–" for v in values)]
    columns = ["quantity", *(run.name for run in runs)] if several else ["quantity", "number"]
    found: list[Block] = [Table("The training data", columns, cells)]
    shown: list[Ledger] = []
    for run in runs:
        if run.ledger not in shown:  # runs of a comparison mostly have the same data
            shown.append(run.ledger)
            found += ledger_blocks(run.ledger, f" ({run.name})" if several else "")
    return found


def bad_text(ledger: Ledger) -> str:
    """How many samples could not be used."""
    if not ledger.bad or not ledger.samples:
        return count(ledger.bad)
    return f"{count(ledger.bad)} ({percent(ledger.bad / (ledger.samples + ledger.pictures), 2)})"


def left_out_text(ledger: Ledger) -> str:
    """How many rows packing left out; "–" if that is not known."""
    return count(sum(ledger.left_out.values())) if ledger.left_out else "–"


def ledger_blocks(ledger: Ledger, of: str) -> list[Block]:
    """Reasons, examples and languages of one run."""
    found: list[Block] = []
    for caption, reasons in (
        (f"Why samples could not be used{of}", ledger.bad_reasons),
        (f"Why rows were left out when packing{of}", ledger.left_out),
    ):
        if reasons:
            found.append(Table(caption, ["reason", "number"], [[reason, count(n)] for reason, n in reasons.items()]))
    if ledger.bad_examples:
        rows = [[shard, key or "the whole shard", reason] for shard, key, reason in ledger.bad_examples]
        caption = f"The first samples that could not be used{of}"
        found.append(Table(caption, ["shard", "sample", "reason"], rows, frozenset({1, 2})))
    if ledger.languages:
        found.append(language_table(ledger.languages, of))
    elif ledger.captions == 0:
        found.append(Text(f"Nothing is known of the captions{of}: there is no text student, or the data are streams."))
    return found


def language_table(languages: Sequence[Language], of: str) -> Table:
    """The captions of each language, as the tokenizer reads them."""
    rows: list[list[Cell]] = [
        [
            one.name or "not said",
            count(one.captions),
            "–" if one.tokens is None else f"{one.tokens:.1f}",
            "–" if one.cut is None else percent(one.cut),
        ]
        for one in languages
    ]
    return Table(f"Captions by language{of}", ["language", "captions", "tokens each", "cut off by the context"], rows)
