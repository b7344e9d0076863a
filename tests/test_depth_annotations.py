"""Depth codes in the companion folder of a dataset: what is written is read, the rest refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="reading annotations needs pyarrow (workstation)")
import pyarrow as pa
import pyarrow.parquet as pq

from training.depth.annotations import (
    AnnotationError,
    AnnotationInfo,
    AnnotationWriter,
    DepthAnnotations,
    EpisodeCodes,
    dataset_digest,
)

CELLS, CODES = 16, 8


def _rows(frames, seed):
    rng = np.random.default_rng(seed)
    return EpisodeCodes(
        fresh=rng.integers(0, CODES, (frames, CELLS), np.int16),
        buffer=rng.integers(0, CODES, (frames, CELLS), np.int16),
        changed=rng.random((frames, CELLS)) < 0.5,
    )


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "demos"
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    table = pa.table({"episode_index": [0, 1], "length": [5, 3]})
    pq.write_table(table, folder / "meta/episodes/chunk-000/file-000.parquet")
    return folder


@pytest.fixture
def written(tmp_path, dataset):
    folder = tmp_path / "demos_depth"
    intervals = (4, 1)
    rows = {(n, e): _rows(f, 10 * n + e) for n in intervals for e, f in enumerate((5, 3))}
    writer = AnnotationWriter(folder, intervals, CELLS)
    for episode in range(2):
        writer.add_episode({n: rows[n, episode] for n in intervals})
    digest = dataset_digest(dataset)
    info = AnnotationInfo(
        "demos", digest, "observation.images.front", "sim", "ab", 0.996, intervals, CELLS, CODES, ()
    )
    writer.close(info)
    return folder, rows


def test_what_is_written_is_read(written, dataset):
    folder, rows = written
    annotations = DepthAnnotations.open(folder, dataset)
    assert annotations.intervals == (4, 1)
    for (interval, episode), expected in rows.items():
        for frame in range(len(expected.fresh)):
            place = (episode, frame)
            for which in ("fresh", "buffer"):
                codes = annotations.codes(*place, which, interval)
                assert codes.dtype == np.int64
                assert np.array_equal(codes, getattr(expected, which)[frame])
            changed = annotations.changed(*place, interval)
            assert changed.dtype == bool
            assert np.array_equal(changed, expected.changed[frame])
    default = annotations.codes(1, 2)
    assert np.array_equal(default, rows[4, 1].buffer[2])


def test_columns_are_those_of_the_release(written):
    folder, _ = written
    table = pq.read_table(folder / "interval-001/data/chunk-000/file-000.parquet")
    assert table.schema.field("depth_codes").type == pa.list_(pa.int16(), CELLS)
    assert table.schema.field("buffer_codes").type == pa.list_(pa.int16(), CELLS)
    assert table.schema.field("depth_updated_mask").type == pa.list_(pa.bool_(), CELLS)
    assert table["episode_index"].to_pylist() == [0] * 5 + [1] * 3
    assert table["frame_index"].to_pylist() == [0, 1, 2, 3, 4, 0, 1, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: a.codes(2, 0), "has no episode 2; it has 0..1"),
        (lambda a: a.codes(1, 3), "episode 1 has no frame 3; it has 0..2"),
        (lambda a: a.codes(0, -1), "episode 0 has no frame -1; it has 0..4"),
        (lambda a: a.codes(0, 0, "old"), "which is 'old'; choose 'buffer' or 'fresh'"),
        (lambda a: a.changed(0, 0, 7), "no codes at interval 7; it has: 4, 1"),
    ],
)
def test_places_that_are_not_there_are_refused(written, call, message):
    with pytest.raises(AnnotationError, match=message):
        call(DepthAnnotations.open(written[0]))


def test_annotations_of_another_dataset_are_refused(written, dataset):
    table = pa.table({"episode_index": [0, 1], "length": [5, 4]})
    pq.write_table(table, dataset / "meta/episodes/chunk-000/file-000.parquet")
    with pytest.raises(AnnotationError, match="another state of the dataset 'demos'"):
        DepthAnnotations.open(written[0], dataset)


def test_a_folder_without_annotations_is_refused(tmp_path):
    with pytest.raises(AnnotationError, match=r"has no meta/info\.json; make it with"):
        DepthAnnotations.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not of format"),
        ({"speed": 1}, "missing or unknown keys: speed"),
    ],
)
def test_an_unknown_description_is_refused(written, change, message):
    path = written[0] / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AnnotationError, match=message):
        DepthAnnotations.open(written[0])


@pytest.mark.parametrize("damage", ["codes", "frames", "cut"])
def test_damaged_rows_are_refused(written, damage):
    folder, _ = written
    info = folder / "meta/info.json"
    content = json.loads(info.read_text())
    if damage == "codes":
        info.write_text(json.dumps({**content, "codes": 4}))
    elif damage == "frames":
        info.write_text(json.dumps({**content, "episode_frames": [6, 3]}))
    else:
        path = folder / "interval-004/data/chunk-000/file-000.parquet"
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AnnotationError, match=r"annotate .*again"):
        DepthAnnotations.open(folder).codes(0, 0)
