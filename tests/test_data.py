"""``distill data``: check finds the faults that a test put into shards; indexes of many shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from conftest import distill, encoded, sample, write_shards, write_tar
from PIL import Image

from distill.data.check import Findings, NearDuplicates, difference_hash
from distill.data.index import index_paths
from distill.data.indexes import read_index
from distill.data.order import Order
from distill.data.shards import Indexes, Shards

SCRIPT = Path(sys.executable).with_name("distill")


def photo(seed: int, side: int = 96) -> Image.Image:
    """A smooth random picture, different for every seed and recognisable at every size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def test_check_reports_every_fault_that_was_put_in(tmp_path: Path) -> None:
    members = []
    for i in range(20):
        members += [(f"good{i}.png", encoded(photo(100 + i, 48))), *sample(f"good{i}", "circle", "red", i)[1:]]
    members += [("torn.png", encoded(photo(1))[:90]), ("torn.txt", b"words")]
    members += [("no-caption.png", encoded(photo(2))), ("no-caption.txt", b" ")]
    members += [("no-image.txt", b"words"), ("latin.png", encoded(photo(3))), ("latin.txt", b"caf\xe9")]
    members += [("one.png", encoded(photo(4))), ("one.txt", b"words"), ("two.png", encoded(photo(4)))]
    members += [("two.txt", b"words"), ("small.png", encoded(photo(5))), ("small.txt", b"words")]
    write_tar(tmp_path / "a.tar", members)
    resized = encoded(photo(5).resize((60, 60)), "JPEG")
    write_tar(tmp_path / "b.tar", [("other.jpg", resized), ("other.txt", b"x"), ("new.png", encoded(photo(9)))])
    cut = tmp_path / "cut.tar"
    (cut).write_bytes((tmp_path / "a.tar").read_bytes()[:5000])
    options = ("--against", tmp_path / "b.tar", "--json")
    for processes in (0, 2):
        words = ["data", "check", tmp_path / "a.tar", *options, "--processes", processes]
        found = json.loads(distill(*words, status=1).stdout)
        assert (found["shards"], found["samples"], found["bad"]) == (1, 27, 4)
        assert sum(found["reasons"].values()) == 4
        assert {one["key"] for one in found["bad_examples"]} == {"torn", "no-caption", "no-image", "latin"}
        assert found["captions_per_image"] == {"1": 3, "2": 20}
        assert found["languages"]["en"] == 20 and found["languages"]["de"] == 20
        assert found["width"] == {"smallest": 48, "median": 48, "largest": 96}
        assert found["same_images"] == 1 and found["same_examples"] == [
            [f"{tmp_path}/a.tar:{key}" for key in ("one", "two")]
        ]
        assert found["alike_in_eval"] == 1
        assert found["alike_in_eval_examples"] == [[f"{tmp_path}/b.tar:other", f"{tmp_path}/a.tar:small"]]
    output = distill("data", "check", tmp_path / "a.tar", cut, status=1).stdout
    assert "in 2 shards" in output and "cut off or damaged" in output


def test_near_duplicates_are_those_that_a_comparison_of_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    hashes_of_images = [int(x) for x in rng.integers(0, 2**63, 300)]
    for i in range(0, 200, 2):  # make pairs that differ in a few bits
        for bit in rng.choice(64, rng.integers(0, 8), replace=False):
            hashes_of_images[i + 1] = (
                hashes_of_images[i] ^ (1 << int(bit)) if bit % 2 else hashes_of_images[i + 1] ^ (1 << int(bit))
            )
    found = Findings(hashes=hashes_of_images, names=[str(i) for i in range(len(hashes_of_images))])
    found_quickly = {a for a, _ in NearDuplicates(found).pairs(found, same_set=True)}
    found_by_comparing_all = {
        str(i)
        for i, a in enumerate(hashes_of_images)
        if any(i != j and (a ^ b).bit_count() <= 4 for j, b in enumerate(hashes_of_images))
    }
    assert found_quickly == found_by_comparing_all and 10 < len(found_by_comparing_all) < 200
    for seed in range(20):
        image_hash = difference_hash(photo(seed))
        assert (image_hash ^ difference_hash(photo(seed).resize((40, 40)))).bit_count() <= 4
        assert (image_hash ^ difference_hash(photo(seed + 100))).bit_count() > 4


def test_an_index_is_written_to_the_users_cache_if_the_folder_is_read_only(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path / "shards", (3,))
    found = json.loads(distill("data", "index", path, "--json", XDG_CACHE_HOME=str(tmp_path / "cache")).stdout)
    assert found == [{"shard": str(path), "samples": 3, "index": f"{path}.index", "faults": [], "leftovers": []}]
    os.remove(f"{path}.index")
    os.mkdir(f"{path}.index")  # a folder of that name makes writing the file fail, also for root
    found = json.loads(distill("data", "index", path, "--json", XDG_CACHE_HOME=str(tmp_path / "cache")).stdout)
    assert found[0]["index"].startswith(str(tmp_path / "cache" / "distill" / "indexes"))
    before = Path(found[0]["index"]).stat().st_mtime_ns
    distill("data", "index", path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert Path(found[0]["index"]).stat().st_mtime_ns == before


LARGE_TABLE = """
import resource, sys
import numpy as np
from pathlib import Path
from distill.data.order import Order
from distill.data.shards import Shards

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shards = Shards.load(Path(sys.argv[1]))
order = Order(shards.counts, seed=1)
seen = {i for position in (0, 10**9, 5 * 10**9) for _, i in order.between(position, position + 50_000)}
assert len(shards) == 10**10 and len(seen) == 150_000
assert shards.indexes.path(123_456).name == "shard-00123456.tar"
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_million_shards_take_less_than_200_mb(tmp_path: Path) -> None:
    """Ten billion samples in a million shards; a Python object for each shard's name alone would take 100 MB more."""
    count = 1_000_000
    names = np.frombuffer(b"".join(b"/data/shard-%08d.tar" % i for i in range(count)), dtype=np.uint8)
    ends = np.arange(1, count + 1, dtype=np.int64) * 24
    table = Indexes(names, ends, np.zeros((count, 32), dtype=np.uint8))
    Shards(table, np.full(count, 10_000)).save(tmp_path / "shards.safetensors")
    words = [sys.executable, "-c", LARGE_TABLE, str(tmp_path / "shards.safetensors")]
    grown = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert grown < 200_000, "kilobytes: a table of 64 MB, and a few arrays with a number per shard"


def test_no_member_of_an_archive_is_extracted_to_the_disk(tmp_path: Path) -> None:
    """Absolute names and names with ".." are used as keys only; links out of the archive and FIFOs are no samples."""
    outside = tmp_path / "outside"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in (str(outside / "a.png"), "../outside/b.png", "x/../../outside/c.png"):
            info = tarfile.TarInfo(name)
            data = encoded(photo(1))
            info.size = len(data)
            import io

            tar.addfile(info, io.BytesIO(data))
        for kind, name in ((tarfile.SYMTYPE, "link.png"), (tarfile.LNKTYPE, "hard.txt"), (tarfile.FIFOTYPE, "f.json")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    found = json.loads(distill("data", "check", tmp_path / "a.tar", "--json", status=1).stdout)
    assert found["samples"] == 3 and found["bad"] == 3
    assert {p.name for p in tmp_path.iterdir()} == {"a.tar", "a.tar.index"} and not outside.exists()


def test_an_index_lists_samples_in_the_order_of_the_file(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, (4,))
    index = read_index(path)
    assert [int(offset) for offset in index.members[:, 0, 0]] == sorted(int(o) for o in index.members[:, 0, 0])
    assert index_paths(path)[0].is_file()
    assert sorted(i for _, i in Order(np.array([4]), 0).between(0, 4)) == [0, 1, 2, 3]
