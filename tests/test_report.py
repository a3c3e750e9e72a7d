"""Reports of real runs: what is in them, what they say next, and that nothing of users or machines gets through."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import socket
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import RECIPE, SCRATCH, distill, lines_of, metrics, sample, write_shards, write_tar
from report_facts import SCRIPT, TAG, compared, falling, full_facts, results, series

import distill as package
from distill.data.captions import Captions
from distill.data.shards import Shards
from distill.errors import UserError
from distill.evals.retrieval import Relevance
from distill.metrics.ranking import recalls
from distill.reporting.advice import advice, fall_at_the_end
from distill.reporting.collect import collect
from distill.reporting.curves import MOST_GROUPS, read_curves
from distill.reporting.drawing import round_numbers
from distill.reporting.facts import Ledger
from distill.reporting.formats import html, md
from distill.reporting.gallery import answers, make_gallery
from distill.reporting.numbers import difference, metric_label, metric_value, short
from distill.reporting.public import without_folders
from distill.reporting.results import measure_run
from distill.ship.embed import embed_images

LIMIT = 5_000_000  # bytes


class Elements(HTMLParser):
    """The elements of a page as (name, attributes), and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.styling = "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        self.styling = tag == "style"

    def handle_data(self, data: str) -> None:
        self.text += "" if self.styling else data


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs on shards of drawings, one sample of which has no caption; captions of the evaluation
    data are HTML."""
    home = tmp_path_factory.mktemp("report")
    write_shards(home / "shards", (40, 24))
    write_tar(home / "shards" / "train-000002.tar", sample("lost", "circle", "red", 3)[:1])
    members = []
    for i in range(24):
        shape, colour = ("circle", "square", "cross")[i % 3], ("red", "blue", "green", "black")[i // 3 % 4]
        picture, *_ = sample(f"{i:03d}", shape, colour, 500 + i)
        members += [picture, (f"{i:03d}.txt", f"{SCRIPT} {colour} {shape} | {i} {TAG}".encode())]
    write_tar(home / "test.tar", members)
    text = RECIPE.format(shards=home / "shards").replace("[data]", f'[data]\neval = "{home / "test.tar"}"')
    (home / "recipe.toml").write_text(text)
    settings = ["--set", "data.bad_samples=2", "--set", "train.steps=8"]
    distill("train", home / "recipe.toml", "--out", home / "first", *settings)
    distill("train", home / "recipe.toml", "--out", home / "scratch", *settings, *SCRATCH)
    return home


@pytest.fixture(scope="module")
def page(runs: Path) -> str:
    """The report on the first run."""
    out = distill("report", runs / "first").stdout
    assert out == f"The report is in {runs / 'first' / 'report.html'}.\n"
    return (runs / "first" / "report.html").read_text(encoding="utf-8")


def test_a_report_shows_the_numbers_of_the_run(runs: Path, page: str) -> None:
    found = package.evaluate(runs / "first", "retrieval")
    text = Elements(page).text
    for metric, value in found["metrics"].items():
        assert f"{100 * value:.1f}\u202f%" in text and metric_label(metric) in text
    about = json.loads((runs / "first" / "run.json").read_text())
    assert f"{about['parameters']['image']:,}" in text.replace("\u202f", "")
    weights = about["teacher_weights"]["packaged/efficientnet_lite0"]
    assert weights in text and about["versions"]["torch"] in text
    assert short(metrics(runs / "first")[-1]["loss"]) in text
    assert "there is no caption" in text and "train-000002.tar" in text
    assert "Size and speed" in text and "Measured on the machine that wrote this report" in text
    assert 'arch = "vit_tiny_patch16_224"' in text


def test_a_report_is_one_file_without_script_and_names_nothing_of_the_machine(runs: Path, page: str) -> None:
    parsed = Elements(page)
    names = {name for name, _ in parsed.found}
    assert not names & {"script", "iframe", "object", "embed", "form", "video", "audio"}
    for _, attributes in parsed.found:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    for text in (parsed.text, md.write(collect([runs / "first"], say=lambda line: None))):
        assert str(runs) not in text and str(runs.parent) not in text
        for name in (str(Path.home()), socket.gethostname(), getpass.getuser()):
            assert not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text), name
    assert len(page.encode()) < LIMIT


def test_captions_and_names_are_shown_as_text(page: str) -> None:
    for text in (page, html.write([full_facts(TAG)]), html.write(compared())):
        assert "<script" not in text and "<img src=x" not in text
        parsed = Elements(text)
        assert "<script>alert('caption')</script>" in parsed.text
        sources = {attributes["src"] for name, attributes in parsed.found if name == "img"}
        assert sources and all(str(one).startswith("data:image/jpeg;base64,") for one in sources)
    text = md.write([full_facts(TAG)])
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S)
    assert "<script" not in outside and "<img" not in outside and "&lt;script&gt;" in outside


def test_headings_do_not_skip_a_level_and_anchors_exist(page: str) -> None:
    for text in (page, html.write([full_facts()]), html.write(compared(3))):
        parsed = Elements(text)
        levels = [int(name[1]) for name, _ in parsed.found if re.fullmatch("h[1-6]", name)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
        ids = [attributes["id"] for _, attributes in parsed.found if "id" in attributes]
        assert len(ids) == len(set(ids))
        targets = {str(a["href"])[1:] for name, a in parsed.found if name == "a"}
        assert targets <= set(ids) and "content" in targets
        named = [a.get("aria-labelledby") for _, a in parsed.found if a.get("aria-labelledby")]
        assert all(one in ids for names in named for one in str(names).split())


def test_several_runs_are_compared(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "comparison.html"
    distill("report", runs / "first", runs / "scratch", runs / "first", "--out", out)
    text = Elements(out.read_text(encoding="utf-8")).text
    one, two = (package.evaluate(runs / name, "retrieval")["metrics"] for name in ("first", "scratch"))
    for metric in one:
        assert difference(metric, one[metric] - two[metric]) in text
    assert "first − scratch" in text and "first (2)" in text and "scratch − first (2)" in text
    assert text.count("f_h ↔ h_f") and "Comparison of 3 runs" in text


def test_markdown_holds_the_same_numbers(runs: Path, tmp_path: Path) -> None:
    path = package.report(runs / "first", tmp_path / "first.md", "md", data=runs / "test.tar")
    text = path.read_text(encoding="utf-8")
    for value in package.evaluate(runs / "first", "retrieval")["metrics"].values():
        assert metric_value("i2t_r1", value) in text
    rows = [line for line in text.splitlines() if line.startswith("| text\u00a0→\u00a0image, R@10 ")]
    widths = [line.count("|") - line.count("\\|") for line in rows]
    assert sorted(widths) == [4, 5]  # at the beginning with a note, among the results with interval and chance


def test_the_gallery_ranks_as_the_evaluation_does(runs: Path) -> None:
    """Every query is among those drawn, so that their ranks give the recall that is measured independently."""
    model = package.load(runs / "first")
    context = measure_run(runs / "first", model).context
    assert context is not None
    gallery = make_gallery(context, draws=(24, 3, 3))
    assert (gallery.samples, gallery.texts, gallery.of) == (24, 24, 24)
    found = package.evaluate(runs / "first", "retrieval")["metrics"]
    for direction, name in ((0, "t2i"), (1, "i2t")):
        ranks = [query.rank for query in gallery.groups["random"][direction]]
        assert len(ranks) == 24 and not gallery.groups["best"][direction]
        for k in (1, 5, 10):
            assert found[f"{name}_r{k}"] == pytest.approx(np.mean([rank <= k for rank in ranks]))
        for query in gallery.groups["random"][direction]:
            assert [answer.correct for answer in query.answers].count(True) == (query.rank <= 5)
    again = make_gallery(context, draws=(4, 2, 2), most=20)
    assert again == make_gallery(context, draws=(4, 2, 2), most=20)
    assert (again.samples, again.of) == (20, 24)
    ranks = {name: [query.rank for query in both[0]] for name, both in again.groups.items()}
    assert max(ranks["best"]) <= min(ranks["worst"])


def test_answers_of_a_query_are_its_best_candidates(runs: Path) -> None:
    shards = Shards.open([str(runs / "test.tar")])
    relevance = Relevance.of([Captions().read(shards.read(i)) for i in range(len(shards))])
    texts, texts_of_image = relevance.texts, relevance.of_image
    model = package.load(runs / "first")
    images, encoded = embed_images(model, shards).numpy(), model.encode_text(texts).numpy()
    scores = images @ encoded.T
    ranks = []
    for row, right in zip(scores, texts_of_image, strict=True):
        best, rank, first = answers(row, right)
        assert first in right and (rank > 5 or best[rank - 1] == first)
        assert row[best].min() >= np.delete(row, best).max() - 2e-6
        ranks.append(rank)
    assert recalls(images, encoded, texts_of_image)[5] == pytest.approx(np.mean(np.array(ranks) <= 5))


def test_a_run_without_results_says_why(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "first", tmp_path / "new", ignore=shutil.ignore_patterns("checkpoints", "report.html"))
    lines = (tmp_path / "new" / "metrics.jsonl").read_text().splitlines()[:3]
    (tmp_path / "new" / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4, "lo']))
    (facts,) = collect([tmp_path / "new"], say=lambda line: None)
    assert facts.results == [] and facts.gallery is None and facts.curves.last_step == 3
    assert "no checkpoint yet" in facts.notes[0] and str(tmp_path) not in facts.notes[0]
    assert "step 3 of 8" in advice(facts)[0]
    assert "no checkpoint yet" in Elements(html.write([facts])).text


def test_mistakes_are_refused_before_any_work(runs: Path, page: str, tmp_path: Path) -> None:
    (tmp_path / "there.html").write_text("mine")
    for words, message in (
        ([runs], "is not a run"),
        ([runs / "first"], "report.html already exists"),
        ([runs / "first", "--out", tmp_path / "there.html"], "there.html already exists"),
        ([runs / "first", runs / "scratch"], "Name a file with --out"),
        ([runs / "first", "--format", "htm"], "Did you mean 'html'?"),
        ([*[runs / "first"] * 33, "--out", tmp_path / "many.html"], "33"),
    ):
        assert message in distill("report", *words, status=2).stderr
    assert (tmp_path / "there.html").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="no report format"):
        package.report(runs / "first", tmp_path / "x", "pdf")


def test_curves_of_a_long_run_are_exact_and_small(tmp_path: Path) -> None:
    """100,000 steps with evaluations among them: sums over all groups are those of NumPy."""
    steps = 100_000
    loss = np.array(falling(5.0, 1.0, steps))
    lines = [json.dumps({"step": k + 1, "loss": v, "tau": 0.07, "lr": 1e-3}) for k, v in enumerate(loss.tolist())]
    lines[50_000:50_000] = [json.dumps({"step": 50_000, "evaluate": {"retrieval/t2i_r10": 0.25}})]
    lines[70_000] = '{"step": 70000, "loss": null}'
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    curves = read_curves(tmp_path / "metrics.jsonl")
    found, kept = curves.logged["loss"], np.delete(loss, 69_999)
    assert len(found.steps) <= 2 * MOST_GROUPS and found.not_finite == 1 and curves.last_step == steps
    assert sum(found.counts) == steps - 1
    mean = np.average(found.means, weights=found.counts)
    assert mean == pytest.approx(kept.mean(), rel=1e-12)
    spread = np.average(np.array(found.variances) + (np.array(found.means) - mean) ** 2, weights=found.counts)
    assert spread == pytest.approx(kept.var(), rel=1e-9)
    assert (min(found.lows), max(found.highs)) == (kept.min(), kept.max())
    assert (found.first, found.last) == (kept[0], kept[-1])
    assert curves.evaluated["retrieval/t2i_r10"].means == (0.25,)
    facts = [replace(full_facts(f"run {k}"), curves=curves, total_steps=steps) for k in range(32)]
    assert len(html.write(facts[:1]).encode()) < 400_000
    assert len(html.write(compared(4) + facts[4:]).encode()) < LIMIT


def test_advice_needs_numbers_that_carry_it() -> None:
    run = full_facts()
    said = " ".join(advice(run))
    assert "40 samples of 1,641" in said and "1.5" not in said.split("Train longer")[0]
    for expected in ("still falls", "lower limit", "9.9\u202f%", "900 of 22,310", "below half", "--alpha 0.4", "81.0"):
        assert expected in said
    flat = replace(
        run,
        curves=replace(run.curves, logged={"loss": series(falling(2.0, 2.0, 900))}),
        ledger=Ledger(10_000, 1, bad=100, captions=1000, become_equal=10),
        results=[],
    )
    assert advice(flat) == []
    result = results()[0]
    guess = {name: 0.036 for name in result["metrics"]}
    unclear = replace(flat, results=[result | {"chance": guess, "intervals": {k: [0.0, 0.05] for k in guess}}])
    assert "nothing can be told from guessing" in advice(unclear)[0] and len(advice(unclear)) == 1


def test_the_fall_at_the_end_is_that_of_welch() -> None:
    """Against NumPy on the values themselves, where every group holds one value."""
    values = falling(4.0, 2.0, 200)
    found = fall_at_the_end(series(values))
    before, last = np.array(values[160:180]), np.array(values[180:])
    fall = before.mean() - last.mean()
    margin = 1.96 * np.sqrt(before.var() / 20 + last.var() / 20)
    if fall - margin > 0:
        assert found is not None
        np.testing.assert_allclose(found, (fall, fall - margin, fall + margin), rtol=1e-9)
    else:
        assert found is None
    steady = [5 - 0.01 * k for k in range(200)]
    assert fall_at_the_end(series(steady)) == pytest.approx((0.2, 0.2 - 0.03574, 0.2 + 0.03574), abs=1e-4)
    assert fall_at_the_end(series(steady[::-1])) is None and fall_at_the_end(series(steady[:190])) is None


def test_round_numbers_enclose_the_values() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        low, high = np.sort(rng.normal(size=2) * 10.0 ** rng.integers(-6, 7))
        ticks = round_numbers(low, high)
        steps = np.diff(ticks)
        assert ticks[0] <= low + 1e-9 * abs(low) and ticks[-1] >= high - 1e-9 * abs(high) and 2 <= len(ticks) <= 13
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert len(round_numbers(3.0, 3.0)) >= 2 and len(round_numbers(0.0, 0.0)) >= 2


def test_texts_lose_folders_but_not_addresses() -> None:
    for text, expected in (
        ("The run /home/ann/my-runs/first has no checkpoint.", "The run first has no checkpoint."),
        ("see https://example.org/a/b and 1/2", "see https://example.org/a/b and 1/2"),
        ("shards/train.tar and ~/data/x.tar", "shards/train.tar and x.tar"),
    ):
        assert without_folders(text) == expected
    assert without_folders("in /data/two words/run: x", Path("/data/two words/run")) == "in run: x"


def test_numbers_read_as_people_write_them() -> None:
    assert [short(v) for v in (0.0, 12.0, 1234.5, 0.0123456, 3.14159, 1e-7, -2.5)] == [
        *("0", "12", "1,234", "0.0123", "3.14", "1e−7", "−2.50")
    ]
    assert metric_value("t2i_r10", 0.2) == "20.0\u202f%" and metric_value("cka", 0.712) == "0.712"
    assert difference("t2i_r10", -0.0155) == "−1.6" and difference("nll", 0.25) == "+0.250"
    assert metric_label("t2i_r10") == "text\u00a0→\u00a0image, R@10"


def test_left_out_rows_of_packing_are_counted(runs: Path, tmp_path: Path) -> None:
    (runs / "shards" / "left-out.jsonl").write_text(
        '{"row": 1, "reason": "there is no caption"}\n{"row": 2, "reason": "it does not decode: x"}\nhalf a li'
    )
    (facts,) = collect([runs / "scratch"], say=lambda line: None)
    (runs / "shards" / "left-out.jsonl").unlink()
    assert facts.ledger.left_out == {"there is no caption": 1, "it does not decode": 1}
    assert facts.ledger.bad == len(lines_of(runs / "scratch" / "bad-samples.jsonl")) == 1


def test_paired_differences_are_shown_and_named_where_their_interval_excludes_0() -> None:
    text = Elements(html.write(compared(3))).text
    for words in ("+3.1 (+1.1 to +5.2)", "−0.4 (−2.0 to +1.3)", "run 0 − run 2", "−0.200 (−0.300 to −0.100)"):
        assert words in text
    assert "run 0 differs from run 2 beyond chance: text\u00a0→\u00a0image, R@10 +3.1." in text
    assert "beyond chance: image" not in text and "beyond chance: negative log-likelihood −0.200." in text
    text = Elements(html.write(compared(5))).text
    assert "run 0 − run 4" in text and "run 3 − run 4" not in text
