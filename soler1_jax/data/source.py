"""Data sets on disk: array_record shards that TFDS reads, without TensorFlow.

A data set is a folder with `features.json`, `dataset_info.json` and shards named
`soler1-<split>.array_record-00003-of-00010`, so that
`tfds.builder_from_directory(folder).as_data_source(split)` opens it. Each shard is
written to a temporary file and renamed, hence a killed writer leaves only whole
shards behind; `dataset_info.json` comes last and says that the data set is complete.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsIndex

from array_record.python import array_record_module
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.core import features as tfds_features

from soler1_jax.common.errors import UserError, disk_errors, native_disk_errors
from soler1_jax.common.run import read_json, write_json
from soler1_jax.data import records
from soler1_jax.data.records import Episode

NAME = "soler1"
VERSION = "1.0.0"
# One record a group: random access reads nothing but what it returns.
_WRITER_OPTIONS = "group_size:1,zstd:3"


def shard_path(folder: Path, split: str, index: int, count: int) -> Path:
    """Where shard `index` of `count` lies."""
    return Path(folder) / f"{NAME}-{split}.array_record-{index:05d}-of-{count:05d}"


def write_shard(path: Path, episodes: Iterable[Episode]) -> int:
    """Writes one shard through a temporary file; returns its payload in bytes.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    size = 0
    with disk_errors(path.parent), native_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        # array_record reports no errno; the same refusals are met here first
        temporary.open("wb").close()
        try:
            writer = array_record_module.ArrayRecordWriter(
                str(temporary), _WRITER_OPTIONS
            )
            for episode in episodes:
                row = records.serialize(episode)
                writer.write(row)
                size += len(row)
            writer.close()
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return size


def remove_leftovers(folder: Path) -> None:
    """Deletes temporary files of a writer that was killed."""
    for path in Path(folder).glob(f".{NAME}-*.tmp"):
        path.unlink(missing_ok=True)


def write_metadata(
    folder: Path, split: str, features: tfds_features.FeaturesDict, count: int
) -> None:
    """Declares a data set of `count` shards complete.

    Raises:
      UserError: a shard is missing.
    """
    folder = Path(folder)
    paths = [shard_path(folder, split, index, count) for index in range(count)]
    lengths = [_length(path) for path in paths]
    with disk_errors(folder):
        features.save_config(folder)
    write_json(
        folder / "dataset_info.json",
        {
            "name": NAME,
            "version": VERSION,
            "fileFormat": "array_record",
            "moduleName": "soler1_jax.data.source",
            "description": "Episodes with measured facts, questions and thoughts.",
            "splits": [
                {
                    "name": split,
                    "numBytes": str(sum(path.stat().st_size for path in paths)),
                    "shardLengths": [str(length) for length in lengths],
                    "filepathTemplate": (
                        "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
                    ),
                }
            ],
        },
    )


def _length(path: Path) -> int:
    if not path.exists():
        raise UserError(
            f"a data set needs all its shards; {path} is missing; "
            "run the same `soler1 synth` command again"
        )
    return len(ArrayRecordDataSource([str(path)]))


@dataclasses.dataclass
class Source:
    """Random access to the episodes of a data set; fit for grain's `source`.

    Attributes:
      folder: the data set.
      split: the split it holds.
    """

    folder: str
    split: str
    _rows: ArrayRecordDataSource
    _features: tfds_features.FeaturesDict

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> Episode:
        """Episode `index`; fields as in data/records.py.

        Raises:
          IndexError: there is none; array_record itself raises another error, which
            would not end a loop over the episodes.
        """
        if not 0 <= int(index) < len(self):
            raise IndexError(f"{self!r} has no episode {int(index)}")
        row = self._rows[index]
        return records.from_row(self._features.deserialize_example_np(row))

    def __repr__(self) -> str:
        # grain compares this when it restores an iterator
        return f"Source({self.split}, {len(self)} episodes)"


def open_source(folder: Path | str) -> Source:
    """Opens a complete data set.

    Raises:
      UserError: the folder holds none, or one whose writing was interrupted.
    """
    folder = Path(folder)
    info = folder / "dataset_info.json"
    if not info.exists():
        begun = any(folder.glob(f"{NAME}-*.array_record-*"))
        state = "is not complete" if begun else "holds no data set"
        raise UserError(
            f"a data folder is needed; {folder} {state}; "
            f"run `soler1 synth --out {folder}` to the end"
        )
    (split,) = read_json(info)["splits"]
    count = len(split["shardLengths"])
    paths = [shard_path(folder, split["name"], i, count) for i in range(count)]
    for path in paths:
        if not path.exists():
            raise UserError(
                f"a data set needs all its shards; {path} is missing; "
                "remove dataset_info.json and run `soler1 synth` again"
            )
    features = tfds_features.FeaturesDict.from_config(str(folder))
    rows = ArrayRecordDataSource([str(path) for path in paths])
    return Source(str(folder), split["name"], rows, features)
