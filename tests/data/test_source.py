"""Data sets on disk: readable by TFDS, whole or absent, and random access."""

import subprocess
import sys

import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.data import records, source


def write(folder, make_episode, shards=2, each=3):
    for index in range(shards):
        episodes = [make_episode(index * each + i) for i in range(each)]
        source.write_shard(source.shard_path(folder, "train", index, shards), episodes)
    source.write_metadata(folder, "train", records.features(3, 16, True), shards)


def test_episodes_come_back_in_order(tmp_path, make_episode):
    write(tmp_path, make_episode)
    opened = source.open_source(tmp_path)
    assert len(opened) == 6
    assert [opened[i].name for i in range(6)] == [f"episode-{i}" for i in range(6)]
    np.testing.assert_array_equal(opened[4].external, make_episode(4).external)


def test_tfds_reads_the_folder_without_tensorflow(tmp_path, make_episode):
    write(tmp_path, make_episode)
    script = (
        "import sys, tensorflow_datasets as tfds\n"
        f"rows = tfds.builder_from_directory({str(tmp_path)!r}).as_data_source('train')\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(len(rows), rows[5]['external'].shape, rows[5]['name'].decode(),\n"
        "      len(rows[5]['queries']['prompt']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[0] == "6 (3, 16, 16, 3) episode-5 3"


def test_a_shard_is_reproducible_to_the_byte(tmp_path, make_episode):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        source.write_shard(path, [make_episode(i) for i in range(4)])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_interrupted_shard_leaves_nothing(tmp_path, make_episode):
    def broken():
        yield make_episode(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source.write_shard(tmp_path / "shard", broken())
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writers_leftovers_are_removed(tmp_path):
    left = tmp_path / ".soler1-train.array_record-00000-of-00002.77.tmp"
    left.write_bytes(b"half")
    source.remove_leftovers(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("broken", ["empty", "unfinished", "shard lost"])
def test_an_incomplete_data_set_is_refused_in_one_line(tmp_path, make_episode, broken):
    if broken != "empty":
        write(tmp_path, make_episode)
    if broken == "unfinished":
        (tmp_path / "dataset_info.json").unlink()
    if broken == "shard lost":
        source.shard_path(tmp_path, "train", 1, 2).unlink()
    with pytest.raises(UserError, match="soler1 synth") as error:
        source.open_source(tmp_path)
    assert "\n" not in str(error.value)


def test_a_full_disk_is_named_and_leaves_no_half_file(
    tmp_path, make_episode, monkeypatch
):
    class FullDisk:
        def __init__(self, path, options):
            del options
            self.file = open(path, "wb")  # noqa: SIM115

        def write(self, row):
            self.file.write(row[:100])
            raise RuntimeError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(source.array_record_module, "ArrayRecordWriter", FullDisk)
    with pytest.raises(UserError, match="disk"):
        source.write_shard(tmp_path / "shard", [make_episode(0)])
    assert list(tmp_path.iterdir()) == []
