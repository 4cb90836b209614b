"""Time series read from files of every kind, and split: no step in two splits, none lost."""

import json
from dataclasses import replace

import numpy as np
import pandas
import pytest
from series_files import HOURLY, START, some_series, wave, with_features, write_entries, write_table

from rnn_hf.data.series import joined_series, load_series, split_series
from rnn_hf.data.series_rows import Columns, Series, read_series, series_of_table


STEPS = 60


def assert_same(read, expected):
    assert [each.item_id for each in read] == [each.item_id for each in expected]
    for one, other in zip(read, expected, strict=True):
        assert one.start == other.start and one.frequency == other.frequency
        np.testing.assert_array_equal(one.target, other.target)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl"])
def test_a_series_is_the_same_from_every_kind_of_file(tmp_path, kind):
    series = some_series(STEPS, missing=(3, 4, 17))
    table = write_table(tmp_path / "a.csv", series)
    path = tmp_path / f"a.{kind}"
    if kind == "tsv":
        path.write_text((tmp_path / "a.csv").read_text().replace(",", "\t"))
    elif kind == "parquet":
        frame = pandas.read_csv(table)
        frame["date"] = pandas.to_datetime(frame["date"])
        frame.to_parquet(path)
    elif kind == "jsonl":
        write_entries(path, series)
    assert_same(read_series(str(path), Columns()), series)


def test_rows_may_be_in_any_order_and_steps_that_are_not_there_are_missing(tmp_path):
    series = some_series(STEPS)
    frame = pandas.read_csv(write_table(tmp_path / "a.csv", series))
    gaps = [5, 6, 40]
    shuffled = frame.drop(gaps).sample(frac=1, random_state=0)
    assert_same(series_of_table(shuffled, Columns(), "here"), some_series(STEPS, missing=gaps))


def test_columns_are_chosen_and_times_of_a_zone_are_those_of_the_place(tmp_path):
    series = some_series(STEPS, ("a", "b", "c"))
    frame = pandas.read_csv(write_table(tmp_path / "a.csv", series, time="when"))
    frame["name"], frame["flag"] = "x", True
    assert [each.item_id for each in series_of_table(frame.copy(), Columns(), "here")] == ["a", "b", "c"]
    assert_same(series_of_table(frame.copy(), Columns(target_columns="c, a"), "here"), [series[2], series[0]])
    frame["when"] = pandas.to_datetime(frame["when"]).dt.tz_localize("Asia/Tokyo")
    assert_same(series_of_table(frame.copy(), Columns("when"), "here"), series)


@pytest.mark.parametrize("times, first, frequency", [([1998, 1999, 2001], "1998-01-01", "12M"),
                                                     ([20200228, 20200229, 20200301], "2020-02-28", "D")])  # fmt: skip
def test_years_and_days_may_be_numbers(times, first, frequency):
    (series,) = series_of_table(pandas.DataFrame({"when": times, "a": [1, 2, 3]}), Columns("when"), "here")
    assert str(series.frequency) == frequency and series.start == np.datetime64(first)
    assert np.isfinite(series.target).sum() == 3


def test_entries_of_gluonts_and_monash_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [
        {"start": "2020-03-02 00:00:00", "target": [1, None, "NaN", 4], "item_id": 7, "feat_static_cat": [0],
         "feat_static_real": [1.5], "feat_dynamic_real": [[1, 2, None, 4, 5], [6, 7, 8, 9, 10]]},
        {"start": "2020-03-02T01:00:00", "target": [[1.5, 2], [3, 4]], "feat_static_cat": [3],
         "feat_static_real": [2], "feat_dynamic_real": [[1, 2], [3, 4]], "feat_dynamic_cat": None},
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    read = read_series(str(path), Columns(frequency="1H"))
    assert [each.item_id for each in read] == ["7", "T2_0", "T2_1"]
    np.testing.assert_array_equal(read[0].target, [1, np.nan, np.nan, 4])
    assert [each.categories for each in read] == [(0,), (3,), (3,)] and read[2].reals == (2.0,)
    np.testing.assert_array_equal(read[0].features, [[1, 6], [2, 7], [np.nan, 8], [4, 9], [5, 10]])
    assert read[1].features.tolist() == read[2].features.tolist() == [[1, 3], [2, 4]]
    assert read[1].target.tolist() == [1.5, 2] and read[2].start == START + 3600 and read[2].frequency == HOURLY


@pytest.mark.parametrize(
    "text, columns, message",
    [
        ("date,a\n2020-01-01,1\n2020-01-01,2\n", {}, "has the time 2020-01-01T00:00:00 twice"),
        ("date,a\n2020-01-01,1\n2020-01-02,2\n2020-01-03 05:00,3\n2020-01-05,1\n", {"frequency": "D"},
         "2020-01-03T05:00:00 is no whole number of steps of D"),
        ("date,a\n2020-01-01,1\n2020-01-02,x\n", {"target_columns": "a"}, "`target_columns` a holds no numbers"),
        ("date,a\n2020-01-01,1\n2020-01-02,2\n", {"target_columns": "b"}, "`target_columns` b is not there"),
        ("date,a\n2020-01-01,1\n2020-01-02,2\n", {"time_column": "b"}, "no column 'b': set `time_column` to one of"),
        ("a,b\n1,1\n2,2\n", {}, "has no column of times: set `time_column`"),
        ("date,a\nx,1\ny,2\n", {}, "`time_column` date holds no times"),
        ("t,a\n1577836800,1\n1577840400,2\n", {"time_column": "t"}, "`time_column` t holds no times"),
        ("date,a\n2020-01-01,1\n,2\n", {}, "`time_column` date has an empty field"),
        ("date,a\n2020-01-01,1\n", {}, "one time has no frequency"),
        ("date,a\n2020-01-01,inf\n2020-01-02,2\n", {}, "a has an infinite value"),
        ("date,a\n2020-01-01,\n2020-01-02,\n", {}, "a has no values"),
        ("date,name\n2020-01-01,x\n2020-01-02,y\n", {}, "has no column of numbers besides date"),
        ("date,a\n2020-01-01 00:00:00,1\n2020-01-01 00:00:01,2\n2920-01-01,2\n", {}, "nearly all steps of s"),
    ],
)  # fmt: skip
def test_a_table_that_is_wrong_is_refused_by_what_is(tmp_path, text, columns, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_series(str(path), Columns(**columns))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "line 1 has no `start`"),
        ('{"start": "2020-01-01"}', "line 1 has no `target`"),
        ('{"start": "2020-01-01", "target": [1]}', "line 1 does not say its `freq`: give `frequency`"),
        ('{"start": "x", "freq": "h", "target": [1]}', "line 1: `start` is no time"),
        ('{"start": "2020-01-01", "freq": "h", "target": ["x"]}', "`target` no list of numbers"),
        ('{"start": "2020-01-01", "freq": "h", "target": [1], "item_id": "a"}\n' * 2, "and 1 are there again"),
        ('{"start": "2020-01-01", "freq": "h", "target": [1]}\n{"start": "2020-01-01", "freq": "D", "target": [1]}',
         "series of several frequencies"),
        *((f'{{"start": "2020-01-01", "freq": "h", "target": [1, 2], {given}}}', message) for given, message in (
            ('"feat_static_cat": [0.5]', r"`feat_static_cat` must be whole numbers from 0 on.*got \[0.5\]"),
            ('"feat_static_cat": [-1]', r"`feat_static_cat` must be whole numbers from 0 on.*got \[-1\]"),
            ('"feat_static_real": ["x"]', "`feat_static_real` numbers"),
            ('"feat_dynamic_real": [[1, 2], [1]]', "`feat_dynamic_real` rows of numbers of one length"),
            ('"feat_dynamic_real": [[1]]', "`feat_dynamic_real` has 1 steps, and `target` has 2"),
        )),
        ('{"start": "2020-01-01", "freq": "h", "target": [1], "feat_static_cat": [1]}\n'
         '{"start": "2020-01-01", "freq": "h", "target": [1]}', r"`feat_static_cat` must be of one length.*\[0, 1\]"),
        ("[1]", "line 1 holds no JSON object"),
        ("{", "line 1 is no JSON"),
        ("", "has no entries"),
    ],
)  # fmt: skip
def test_entries_that_are_wrong_are_refused_by_their_line(tmp_path, text, message):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_series(str(path), Columns())


SPLITS = [
    ("0.7,0.1,0.2", [(0, 70), (70, 80), (80, 100)]),
    ("0.5,0.2,0.1", [(0, 50), (50, 70), (70, 80)]),
    ("60,20,10", [(0, 60), (60, 80), (80, 90)]),
    ("60,20,90", [(0, 60), (60, 80), (80, 100)]),
    ("2020-03-04,2020-03-05 12:00", [(0, 48), (48, 84), (84, 100)]),
    ("2020-03-04,2020-03-05T12,2020-03-06", [(0, 48), (48, 84), (84, 96)]),
]


@pytest.mark.parametrize("splits, bounds", SPLITS)
def test_a_file_is_split_by_shares_numbers_and_times(splits, bounds):
    data = split_series(some_series(100), splits)
    assert data.splits == ["train", "validation", "test"] and len(data.bounds) == 2
    assert data.bounds[0] == data.bounds[1] == dict(zip(data.splits, bounds, strict=True))
    together = np.concatenate([data.values(1, split) for split in data.splits])
    np.testing.assert_array_equal(together, wave(100, 1)[: bounds[-1][1]])


@pytest.mark.parametrize(
    "splits", ["", "1", "0.7,0.1", "0.7,0.2,0.2", "0,1,1", "-1,2,3", "a,b", "2020-03-05,2020-03-04", "0.5,0.1,x"]
)
def test_other_splits_are_refused(splits):
    with pytest.raises(ValueError, match="`splits` must be three shares"):
        split_series(some_series(100), splits)
    with pytest.raises(ValueError, match="leaves no values of a to train on"):
        split_series(some_series(100, missing=range(30)), "30,30,30")


def test_files_that_go_on_and_files_that_begin_again_give_the_same_splits(tmp_path):
    series, edges = some_series(100), {"train": (0, 60), "validation": (60, 80), "test": (80, 100)}
    whole = split_series(series, "60,20,20")
    for name, begins in {"on": (0, 60, 80), "again": (0, 0, 0), "overlap": (0, 50, 65)}.items():
        files = {
            f"{split}_file": write_table(tmp_path / f"{name}_{split}.csv", series, begin, edges[split][1])
            for split, begin in zip(edges, begins, strict=True)
        }
        data = load_series(**files)
        assert data.bounds == whole.bounds
        assert_same(data.series, whole.series)
    entries = {split: write_entries(tmp_path / f"{split}.jsonl", series, end) for split, (_, end) in edges.items()}
    assert load_series(**{f"{split}_file": file for split, file in entries.items()}).bounds == whole.bounds


def test_what_is_missing_between_two_files_is_missing(tmp_path):
    series = some_series(100)
    files = {"train_file": write_table(tmp_path / "a.csv", series, 0, 60),
             "validation_file": write_table(tmp_path / "b.csv", series, 70, 90)}  # fmt: skip
    data = load_series(**files)
    assert data.bounds[0] == {"train": (0, 60), "validation": (60, 90)}
    np.testing.assert_array_equal(data.series[0].target, some_series(100, missing=range(60, 70))[0].target[:90])


def test_without_a_file_for_validation_it_is_the_end_of_the_training_steps(tmp_path):
    series = some_series(100)
    files = {"train_file": write_table(tmp_path / "a.csv", series, 0, 80),
             "test_file": write_table(tmp_path / "b.csv", series, 80)}  # fmt: skip
    data = load_series(**files, validation_split_percentage=25)
    assert data.bounds[1] == {"train": (0, 60), "validation": (60, 80), "test": (80, 100)}
    assert load_series(test_file=files["test_file"]).bounds[0] == {"test": (0, 20)}


def test_a_series_that_begins_earlier_or_has_other_steps_is_refused():
    a, b = some_series(40, ("a",))[0], some_series(40, ("a",))[0]
    earlier = Series("a", START - 3600, HOURLY, b.target)
    with pytest.raises(ValueError, match="a of validation must have the steps of the splits before"):
        joined_series({"train": [a], "validation": [earlier]})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "give either `train_file` and its like or `dataset_name`"),
        ({"train_file": "a.csv", "dataset_name": "etth1"}, "give either"),
        ({"dataset_name": "fsdd"}, "`dataset_name` fsdd is for automatic-speech-recognition"),
        ({"dataset_name": "etth1"}, "needs `dataset_dir`, the folder of ETTh1.csv"),
        ({"dataset_name": "x/y", "dataset_dir": "."}, "`dataset_dir` goes with `dataset_name`, one of etth1"),
    ],
)
def test_arguments_that_name_no_data_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_series(**arguments)


def test_several_files_have_no_splits_and_a_file_must_be_there(tmp_path):
    file = write_table(tmp_path / "a.csv", some_series(40))
    with pytest.raises(ValueError, match="`splits` is for a single file"):
        load_series(train_file=file, validation_file=file, splits="0.7,0.1,0.2")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*b.csv"):
        load_series(train_file=str(tmp_path / "b.csv"))
    (tmp_path / "a.xls").write_text("")
    with pytest.raises(ValueError, match=r"must be one of .csv"):
        load_series(train_file=str(tmp_path / "a.xls"))


def test_the_split_of_the_field_is_that_of_the_transformer_data(tmp_path):
    series = some_series(14_500)
    write_table(tmp_path / "ETTh1.csv", series)
    data = load_series(dataset_name="etth1", dataset_dir=str(tmp_path))
    assert data.bounds[0] == {"train": (0, 8640), "validation": (8640, 11520), "test": (11520, 14400)}


def test_features_of_several_splits_are_those_of_the_whole():
    whole = with_features(60, 66)
    for first, second in ((40, 0), (40, 40)):
        parts = {
            "train": [replace(each, target=each.target[:first], features=each.features[:first]) for each in whole],
            "test": [
                replace(each, start=each.times(second, second + 1)[0], target=each.target[second:],
                        features=each.features[second:])
                for each in whole
            ],
        }  # fmt: skip
        for one, other in zip(joined_series(parts).series, whole, strict=True):
            np.testing.assert_array_equal(one.target, other.target)
            np.testing.assert_array_equal(one.features, other.features)


def test_a_data_set_of_the_hub_has_entries_or_a_table(monkeypatch):
    import datasets

    series = some_series(60)
    entries = [
        {"start": pandas.Timestamp(str(each.start)).to_pydatetime(), "item_id": each.item_id} for each in series
    ]

    def made(end):
        rows = [row | {"target": each.target[:end].tolist()} for row, each in zip(entries, series, strict=True)]
        return datasets.Dataset.from_list(rows)

    table = datasets.Dataset.from_dict({"date": series[0].times().astype("datetime64[ms]").tolist(),
                                        **{each.item_id: each.target for each in series}})  # fmt: skip
    loaded = [datasets.DatasetDict({"train": made(40), "test": made(60)}), datasets.DatasetDict({"train": table})]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: loaded.pop(0))
    data = load_series(dataset_name="x/y", frequency="h")
    assert data.bounds[0] == {"train": (0, 36), "validation": (36, 40), "test": (40, 60)}
    assert_same(data.series, series)
    assert_same(load_series(dataset_name="x/y").series, series)
