"""numpy's OpenBLAS works on one core meanwhile, and on as many as before afterwards."""

from __future__ import annotations

import pytest

from edgellm_quant import blas


def test_threads_are_as_before_afterwards() -> None:
    control = blas._control()
    if control is None:
        pytest.skip("numpy has no OpenBLAS of its own here")
    get, put = control
    before = get()
    try:
        put(2)
        wanted = get()
        with blas.one_thread():
            assert get() == 1
            with blas.one_thread():
                assert get() == 1
            assert get() == 1
        assert get() == wanted
        with pytest.raises(KeyError), blas.one_thread():
            raise KeyError
        assert get() == wanted
    finally:
        put(before)
