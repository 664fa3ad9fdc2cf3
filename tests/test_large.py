"""Data on disk equal the data in memory: every format and packing, faults, two processes, changes."""

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq
from test_amazon import SHOP, ids, levels, stars, styles, times, words, write_shop
from test_amazon import WAYS as AMAZON_WAYS
from test_custom_llara import LAYOUTS, folders, write

from promptrec.core import PromptrecError
from promptrec.data import large
from promptrec.data.amazon import read_amazon
from promptrec.data.custom import read_folder
from promptrec.data.large import open_amazon, open_folder
from promptrec.data.registry import load_dataset
from promptrec.evaluation.candidates import draw_candidates
from promptrec.evaluation.split import leave_one_out

pytest.importorskip("duckdb")


@pytest.fixture(autouse=True, scope="module")
def everything_is_large(tmp_path_factory):
    "The large path for all sizes, with a cache of its own."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTREC_LARGE", "0")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def same(one, two):
    "Fail unless two data sets are equal in all that they hold."
    for name in ("user", "item", "rating", "timestamp"):
        a, b = getattr(one, name), getattr(two, name)
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True), name
    assert list(one.users) == list(two.users)
    pd.testing.assert_frame_equal(one.items, two.items)
    for name in ("name", "domain", "listed", "notes", "steps", "hash"):
        assert getattr(one, name) == getattr(two, name), name


def outcome(read, *where):
    "A data set, or what the error says."
    try:
        return read(*where)
    except PromptrecError as e:
        return str(e)


def agree(one, two):
    "Fail unless two outcomes are equal data sets or equal errors."
    if isinstance(one, str) or isinstance(two, str):
        assert one == two
    else:
        same(one, two)


# ---- data of one's own ----


@settings(max_examples=60, deadline=None)
@given(folders(), st.sampled_from(LAYOUTS), st.sampled_from([50, 1 << 20]))
def test_own_data_are_equal(given, layout, block):
    items, rows, end, last = given
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "_TEXT_BLOCK", block)
        patch.setattr(large, "_PARQUET_BLOCK", 3)
        mine = write(Path(folder) / "mine", layout, rows, items, end, last)
        same(open_folder(mine), read_folder(mine))
