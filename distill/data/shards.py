"""WebDataset shards and folders of pictures as a data set with random access: any sample can be read by its number.

A tar file can only be read from its beginning. Training has to read sample 1,234,567 directly, resume in the middle of
an epoch and pair sample i with row i of a teacher cache. ``index.py`` finds the samples of one shard; this module
numbers those of many.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np

from distill.data.index import KINDS, ShardIndex
from distill.data.indexes import REPLACED, Indexes, read_index, valid_table
from distill.data.members import Leftover
from distill.data.open_files import OpenFiles
from distill.data.order import NEWEST, ORDERS, Order
from distill.data.picture_lists import is_picture_list, read_picture
from distill.data.read_ahead import CERTAIN, EVERY, SPREAD, parts_by_shard, read_ahead, spans
from distill.data.sample import Sample
from distill.data.sample_table import Place, SampleTable, TableBuilder, chunk_of, save_table
from distill.data.shard_names import shard_paths
from distill.data.survey import Survey
from distill.errors import Bad, BadSample, UserError
from distill.files import write_whole

SAMPLES = "samples"  # the folder of the table of samples, beside the table of shards


class Shards:
    """The samples of any number of shards, numbered through.

    Attributes:
        indexes: one :class:`~distill.data.index.ShardIndex` a shard.
        counts: [shards] int64, samples in each.
        faults: everything wrong with the archives; empty unless they were opened by :meth:`open`.
        leftovers: the members that belong to no sample; likewise.
        table: where all samples are; None if they are too many and there is no run folder with a table.
        order: the version of the order in which a run reads them, see ``distill.data.order.ORDERS``.
    """

    def __init__(
        self,
        indexes: Sequence[ShardIndex],
        counts: np.ndarray | None = None,
        faults: Sequence[Bad] = (),
        leftovers: Sequence[Leftover] = (),
        table: SampleTable | None = None,
        order: str = NEWEST,
    ) -> None:
        if not isinstance(indexes, Indexes):
            hashes = b"".join(bytes.fromhex(index.sha256) for index in indexes)
            self.indexes = Indexes.from_paths((index.path for index in indexes), hashes)
        else:
            self.indexes = indexes
        self.counts = np.array([len(i) for i in indexes], dtype=np.int64) if counts is None else counts
        self.faults, self.leftovers, self.table, self.order = tuple(faults), tuple(leftovers), table, order
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._files = OpenFiles(self.indexes.name)
        self._in_cache = 0  # runs in a row that were in the file cache when they were to be read ahead

    @classmethod
    def open(cls, specs: Iterable[str], strict: bool = True, quiet: bool = False) -> Shards:
        """Open shards, indexing those that have no index yet.

        Args:
            specs: names of shards; see :func:`~distill.data.shard_names.shard_paths`.
            strict: raise at the first fault of an archive; otherwise collect them in ``faults``.
            quiet: print no line about images and captions that belong to no sample.

        Raises:
            UserError: if a shard cannot be read, or none of them holds a sample.
            BadSample: if ``strict`` and an archive has a fault.
        """
        survey, builder = Survey(shard_paths(specs)), TableBuilder()
        for path in survey.paths:
            index = read_index(path)
            survey.add(index, strict)
            builder.add(index)
        survey.check()
        if not quiet:
            survey.warn()
        indexes = Indexes.from_paths(survey.paths, survey.sha256)
        return cls(indexes, survey.counts, survey.faults(), survey.leftovers, builder.table())

    @classmethod
    def load(cls, path: Path) -> Shards:
        """Read the tables that :meth:`save` and :meth:`save_samples` wrote; no shard is opened before it is read.

        Raises:
            UserError: if the table cannot be read or is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                names, ends, sha256, counts = (file.get_tensor(n) for n in ("names", "ends", "sha256", "counts"))
                order = (file.metadata() or {}).get("order", "1")
            if not valid_table(names, ends, sha256, counts):
                raise ValueError("it is no table of shards")
            if order not in ORDERS:
                raise ValueError(f"a later version of distill wrote it, whose sample order {order} is not known here")
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}.", "Train into another folder.") from error
        table = SampleTable.load(path.with_name(SAMPLES), int(counts.sum()), len(counts))
        return cls(Indexes(names, ends, sha256), counts, table=table, order=order)

    def save(self, path: Path) -> None:
        """Write the table of shards: paths, hashes and numbers of samples, about 50 bytes a shard and its path."""
        from safetensors.numpy import save_file

        indexes = self.indexes
        tensors = {"names": indexes.names, "ends": indexes.ends, "sha256": indexes.sha256, "counts": self.counts}
        write_whole(path, lambda to: save_file(tensors, to, metadata={"order": self.order}))

    def save_samples(self, folder: Path) -> None:
        """Write ``samples`` into a folder, where :meth:`load` finds it: about 70 bytes a sample.

        Without it, samples are found through the indexes of their shards. So it is left out if a shard has changed in
        the meantime or the disk is full.
        """
        to, chunks = folder / SAMPLES, (chunk_of(index) for index in self.indexes)
        try:
            known = chunks if self.table is None else iter([self.table.chunk()])
            save_table(to, known, len(self), len(self.indexes))
        except (OSError, ValueError, BadSample, UserError):
            shutil.rmtree(to, ignore_errors=True)

    @classmethod
    def joined(cls, parts: Sequence[Shards]) -> Shards:
        """The shards of several sets, one after the other; their samples are numbered anew from 0."""
        if len(parts) == 1:
            return parts[0]
        paths = (part.indexes.path(k) for part in parts for k in range(len(part.indexes)))
        indexes = Indexes.from_paths(paths, b"".join(part.indexes.sha256.tobytes() for part in parts))
        return cls(
            indexes, np.concatenate([part.counts for part in parts]), [f for part in parts for f in part.faults]
        )

    def subset(self, numbers: Sequence[int]) -> Shards:
        """The shards with these numbers, in this order; their samples are numbered anew from 0."""
        chosen, sha256 = list(numbers), self.indexes.sha256
        indexes = Indexes.from_paths(map(self.indexes.path, chosen), sha256[chosen].tobytes())
        return Shards(indexes, self.counts[chosen], order=self.order)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def holds_pictures(self) -> bool:
        """Whether some of the shards are lists of pictures."""
        return any(is_picture_list(self.indexes.name(k)) for k in range(len(self.indexes)))

    def locate(self, i: int) -> tuple[int, int]:
        """Sample number → (shard number, row in that shard)."""
        shard = int(self.starts.searchsorted(i, side="right")) - 1
        return shard, i - int(self.starts[shard])

    def key(self, i: int) -> str:
        if self.table is not None:
            return self.table.key(i)
        shard, row = self.locate(i)
        return self.indexes[shard].keys[row]

    def order_of(self, seed: int) -> Order:
        """The order in which a run with this seed reads the samples."""
        return ORDERS[self.order](self.counts, seed)

    def read(self, i: int, kinds: Sequence[str] = KINDS) -> Sample:
        """Read sample i from disk.

        Args:
            kinds: which of its members to read; the others are None.

        Raises:
            BadSample: if its shard cannot be read, or has changed since it was indexed.
        """
        place = self._place(i)
        image, txt, json = (
            self._bytes(place, span) if kind in kinds else None
            for kind, span in zip(KINDS, place.members, strict=True)
        )
        return Sample(place.key, place.path, image, txt, json)

    def read_ahead(self, runs: np.ndarray) -> None:
        """Ask the operating system to read the images of some samples into its cache, and do not wait for it.

        Those of a run are read together with what is between, unless they are far apart. It does nothing where that is
        not possible; what is wrong with a sample is found when it is read.

        Args:
            runs: [n, 2] int64, the number of the first sample of each run of consecutive ones, and how many they are.
        """
        shards, first, last = parts_by_shard(runs, self.starts)
        starts, _ = self._images(first, shards)
        ends, sizes = self._images(last, shards)
        # Only the first and the last sample are looked up: looking up all takes as long as reading one.
        found = spans(shards, starts, ends + sizes, (last - first + 1) * (SPREAD + sizes))
        for shard, start, length in found[:: EVERY if self._in_cache >= CERTAIN else 1]:
            if self.holds_pictures and is_picture_list(self.indexes.name(shard)):
                continue
            with suppress(OSError):
                self._in_cache = self._in_cache + 1 if read_ahead(self._files[shard], start, length) else 0

    def _images(self, samples: np.ndarray, shards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets and sizes of the images of some samples of some shards, [n] int64 each; size −1 where absent."""
        if self.table is not None:
            found = self.table.members[samples, 0]
            return found[:, 0], found[:, 1]
        found = np.full((len(samples), 2), (0, -1), dtype=np.int64)
        for k, (i, shard) in enumerate(zip(samples.tolist(), shards.tolist(), strict=True)):
            with suppress(BadSample, UserError, IndexError):
                found[k] = self.indexes[shard].members[i - int(self.starts[shard]), 0]
        return found[:, 0], found[:, 1]

    def missing(self, *kinds: str) -> Iterator[tuple[Path, str]]:
        """(shard, key) of every sample without any member of these kinds."""
        columns = [KINDS.index(kind) for kind in kinds]
        for index in self.indexes:
            for row in np.flatnonzero((index.members[:, columns, 1] < 0).all(axis=1)):
                yield index.path, index.keys[row]

    def _place(self, i: int) -> Place:
        """Where sample i is, by the table, or by the index if the shard has changed since the table was made.

        Raises:
            BadSample: if its shard cannot be read, or its content has changed since it was indexed.
        """
        shard, row = self.locate(i)
        if self.table is not None and self._stamp(shard) == self.table.stamp(shard):
            return Place(shard, self.indexes.name(shard), self.table.key(i), self.table.members[i].tolist())
        path = self.indexes.name(shard)
        try:
            index = self.indexes[shard]
        except BadSample as error:
            raise BadSample(path, f"#{row}", error.bad.reason) from error
        except UserError as error:
            cause, reason = error.__cause__, "the shard is gone"
            if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                reason = f"its shard cannot be read: {cause.strerror}"
            raise BadSample(path, f"#{row}", reason) from error
        if row >= len(index):
            raise BadSample(path, f"#{row}", REPLACED)
        if self._stamp(shard) != index.stamp:
            raise BadSample(path, index.keys[row], REPLACED)
        return Place(shard, path, index.keys[row], index.members[row].tolist())

    def _stamp(self, shard: int) -> tuple[int, int] | None:
        """Size and modification time of the open shard; None if it cannot be opened."""
        try:
            stat = os.fstat(self._files[shard])
        except OSError:
            return None
        return stat.st_size, stat.st_mtime_ns

    def _bytes(self, place: Place, span: list[int]) -> bytes | None:
        """The bytes of a member of a sample; None if it is absent."""
        offset, size = span
        if size < 0:
            return None
        try:
            if is_picture_list(place.path):
                return read_picture(place.path, place.key, offset, size)
            data = os.pread(self._files[place.shard], size, offset)
        except OSError as error:
            raise BadSample(place.path, place.key, f"it cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise BadSample(place.path, place.key, REPLACED)
        return data

    def close(self) -> None:
        """Close all files; reading a sample opens its file again."""
        self._files.close()
