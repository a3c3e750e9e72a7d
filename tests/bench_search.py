"""The time of a search among embeddings that are known, compared with bare NumPy.

    python tests/bench_search.py [--rows 100000] [--width 512] [--rounds 5]

prints the milliseconds of reading the embeddings' file, of one search in them (``Collection.best`` of distill),
and of a bare product with a full sort, taken in turns; the best of all rounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np  # noqa: E402

from distill.ship import embedding_files  # noqa: E402
from distill.ship.search import Collection  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = np.random.default_rng(0).standard_normal((arguments.rows, arguments.width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    query, model = rows[7], SimpleNamespace(config=SimpleNamespace(width=arguments.width))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.safetensors"
        embedding_files.write(path, rows, [f"folder/{number:08d}.jpg" for number in range(arguments.rows)])
        loaded: Any = model
        collection = Collection(loaded, str(path))
        works: dict[str, Callable[[], object]] = {
            "read": lambda: Collection(loaded, str(path)),
            "search": lambda: collection.best(query, 10),
            "bare": lambda: np.argsort(-(rows @ query))[:10],
        }
        best = dict.fromkeys(works, float("inf"))
        for _ in range(arguments.rounds):
            for name, work in works.items():
                begun = time.perf_counter()
                work()
                best[name] = min(best[name], time.perf_counter() - begun)
        assert [one.number for one in collection.best(query, 10)] == np.argsort(-(rows @ query))[:10].tolist()
    print(f"{arguments.rows:,} × {arguments.width}: " + ", ".join(f"{k} {1000 * v:.0f} ms" for k, v in best.items()))


if __name__ == "__main__":
    main()
