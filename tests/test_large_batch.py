"""The paper's batch size on a small machine: 14,336 pairs in one contrastive loss, embedded in small pieces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import COLOURS, SHAPES, encoded, picture, write_tar

BATCH = 14 * 1024  # arXiv 2305.16999, appendix F
LIMIT = 6e9  # bytes, all processes of the command together


def write_pairs(folder: Path) -> None:
    """Write as many pairs as a batch has, in four shards; captions are different, drawings repeat."""
    drawings = [encoded(picture(SHAPES[i % 4], COLOURS[i // 4 % 8], i)) for i in range(256)]
    folder.mkdir()
    for shard in range(4):
        members: list[tuple[str, bytes]] = []
        for i in range(shard * BATCH // 4, (shard + 1) * BATCH // 4):
            caption = f"a {COLOURS[i // 4 % 8]} {SHAPES[i % 4]} number {i}"
            members += [(f"{i:06d}.png", drawings[i % 256]), (f"{i:06d}.txt", caption.encode())]
        write_tar(folder / f"train-{shard:06d}.tar", members)


def memory(process: psutil.Process) -> int:
    """Bytes of memory of a process and all its descendants; shared memory counts once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total


@pytest.mark.slow
def test_a_step_with_the_papers_batch_size_needs_less_than_6_gb(tmp_path: Path) -> None:
    """With the towers of the recipe ``tiny``, and three loss terms over all 14,336 pairs."""
    write_pairs(tmp_path / "shards")
    settings = {
        "data.train": "shards",
        "teacher.0.image_size": 32,
        "teacher.0.views": 1,
        "train.steps": 1,
        "train.batch_size": BATCH,
        "train.micro_batch": 256,
    }
    words = ["train", "tiny", "--out", "run", *(w for k, v in settings.items() for w in ("--set", f"{k}={v}"))]
    script = Path(sys.executable).with_name("distill")
    environment = os.environ | {"OMP_NUM_THREADS": str(os.cpu_count())}
    with (tmp_path / "log").open("w") as log:
        process = psutil.Popen([script, *words], cwd=tmp_path, env=environment, stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory(process))
            time.sleep(0.1)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    (line,) = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    terms = json.loads(line)
    assert terms["examples"] == BATCH
    # At the start all candidates are about equally likely: a loss near log 14336 = 9.57 shows that all were compared.
    assert all(9.4 < terms[name] < 10.5 for name in ("loss", "fg", "fh", "gh"))
    print(f"peak {peak / 1e9:.2f} GB")
    assert peak < LIMIT


def test_memory_counts_child_processes() -> None:
    code = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); p.wait()"
    child = "import time; x = b'1' * 300_000_000; print(1, flush=True); time.sleep(20)"
    process = psutil.Popen([sys.executable, "-c", code, child], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    assert 3e8 < memory(process) < 4e8
    for one in [*process.children(recursive=True), process]:
        one.kill()
    process.wait()
    process.stdout.close()
