"""Pickled tables: old and new layouts are read, code in a pickle never runs, damage is named."""

import base64
import gzip
import lzma
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptrec.core import PromptrecError
from promptrec.data.safe_pickle import read_pickled_frame

# pd.DataFrame({"n": [1, 2], "t": ["a", None]}, index=pd.Index([3, 4])) of pandas 1.5.3 and
# numpy 1.26: Int64Index, numpy.core, old module names
PANDAS_1 = (
    "gASV5wIAAAAAAACMEXBhbmRhcy5jb3JlLmZyYW1llIwJRGF0YUZyYW1llJOUKYGUfZQojARfbWdylIwecGFuZGFzLmNv"
    "cmUuaW50ZXJuYWxzLm1hbmFnZXJzlIwMQmxvY2tNYW5hZ2VylJOUjBZwYW5kYXMuX2xpYnMuaW50ZXJuYWxzlIwPX3Vu"
    "cGlja2xlX2Jsb2NrlJOUjBVudW1weS5jb3JlLm11bHRpYXJyYXmUjAxfcmVjb25zdHJ1Y3SUk5SMBW51bXB5lIwHbmRh"
    "cnJheZSTlEsAhZRDAWKUh5RSlChLAUsBSwKGlGgPjAVkdHlwZZSTlIwCaTiUiYiHlFKUKEsDjAE8lE5OTkr/////Sv//"
    "//9LAHSUYolDEAEAAAAAAAAAAgAAAAAAAACUdJRijAhidWlsdGluc5SMBXNsaWNllJOUSwBLAUsBh5RSlEsCh5RSlGgL"
    "aA5oEUsAhZRoE4eUUpQoSwFLAUsChpRoGIwCTziUiYiHlFKUKEsDjAF8lE5OTkr/////Sv////9LP3SUYoldlCiMAWGU"
    "TmV0lGJoIksBSwJLAYeUUpRLAoeUUpSGlF2UKIwYcGFuZGFzLmNvcmUuaW5kZXhlcy5iYXNllIwKX25ld19JbmRleJST"
    "lGg5jAVJbmRleJSTlH2UKIwEZGF0YZRoDmgRSwCFlGgTh5RSlChLAUsChZRoLYldlCiMAW6UjAF0lGV0lGKMBG5hbWWU"
    "TnWGlFKUaDuMG3BhbmRhcy5jb3JlLmluZGV4ZXMubnVtZXJpY5SMCkludDY0SW5kZXiUk5R9lChoP2gOaBFLAIWUaBOH"
    "lFKUKEsBSwKFlGgbiUMQAwAAAAAAAAAEAAAAAAAAAJR0lGJoSE51hpRSlGWGlFKUjARfdHlwlIwJZGF0YWZyYW1llIwJ"
    "X21ldGFkYXRhlF2UjAVhdHRyc5R9lIwGX2ZsYWdzlH2UjBdhbGxvd3NfZHVwbGljYXRlX2xhYmVsc5SIc3ViLg=="
)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize(
    "raw",
    [
        base64.b64decode(PANDAS_1),
        pickle.dumps(pd.DataFrame({"n": [1, 2], "t": ["a", None]}, index=[3, 4])),
    ],
)
def test_pickled_frames(tmp_path, raw, pack):
    (tmp_path / "t.pkl").write_bytes(pack(raw))
    frame = read_pickled_frame(tmp_path / "t.pkl")
    assert frame["n"].tolist() == [1, 2]
    assert frame["t"].tolist()[0] == "a"
    assert frame["t"].isna().tolist() == [False, True]
    assert frame.index.tolist() == [3, 4]


class Run:
    def __init__(self, call, *args):
        self.how = call, args

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: pd.DataFrame({"a": [x]})])
@pytest.mark.parametrize(
    "call, name",
    [
        (os.system, "system"),
        (eval, "eval"),
        (getattr, "getattr"),
        (pd.read_pickle, "read_pickle"),
        (np.load, "load"),
    ],
)
def test_pickle_that_runs_code_is_refused(tmp_path, monkeypatch, wrap, call, name):
    monkeypatch.chdir(tmp_path)
    Path("t.pkl").write_bytes(pickle.dumps(wrap(Run(call, "touch ran"))))
    with pytest.raises(PromptrecError, match=rf"t.pkl: refused, it asks for .*{name}"):
        read_pickled_frame("t.pkl")
    assert os.listdir() == ["t.pkl"]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_broken_pickle_is_an_error_or_a_frame(tmp_path_factory, data):
    "Any byte changed: a table or a PromptrecError, nothing else."
    dtype = data.draw(st.sampled_from([object, "str"]))
    raw = bytearray(
        pickle.dumps(pd.DataFrame({"n": [1, 2], "t": pd.Series(["a", "b"], dtype=dtype)}))
    )
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "broken.pkl"
    path.write_bytes(raw)
    try:
        assert isinstance(read_pickled_frame(path), pd.DataFrame)
    except PromptrecError as e:
        assert "broken.pkl" in str(e)
