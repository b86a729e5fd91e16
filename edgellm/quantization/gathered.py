"""Statistics on disk: one calibration serves every type that a model is quantized to.

A folder in the cache for each model and calibration; each array is a file of its own, so that
matrices are mapped into memory when they are used. Tensors that share an input share the files.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.quantization.work import cache_folder
from edgellm_quant.errors import ShapeError
from edgellm_quant.statistics import RowStatistics, TensorStatistics

__all__ = ["Gatherings"]

FOLDER = "statistics"
# What is kept for one model, and for all: more of it is gathered again when it is needed again.
MOST_BYTES, MOST_BYTES_IN_ALL = 2 << 30, 6 << 30
# Share of the free disk that may be taken.
SHARE = 0.1


class Gatherings:
    """What was gathered of one model with one calibration.

    Args:
        key: a name for the two, as of `work.job_key`.
    """

    def __init__(self, key: str) -> None:
        self._parent = cache_folder(FOLDER)
        self._folder = self._parent / key

    def load(self, names: Iterable[str], kind: str) -> dict[str, TensorStatistics]:
        """Give the statistics that are there; with `kind` "hessian", those that had their matrices.

        Arrays are read-only maps of files.
        """
        found: dict[str, TensorStatistics] = {}
        wanted = set(names)
        for index in sorted(self._folder.glob("*.json")):
            try:
                entries: Mapping[str, Any] = json.loads(index.read_text("utf-8"))
                if kind == "hessian" and entries["kind"] != "hessian":
                    continue
                for name in wanted & entries["tensors"].keys() - found.keys():
                    found[name] = self._tensor(entries["tensors"][name])
            except (OSError, ValueError, KeyError, TypeError, ShapeError):
                continue  # damaged, or removed by another process: gathered again
        if found:
            os.utime(self._folder)
        return found

    def store(self, statistics: Mapping[str, TensorStatistics], kind: str) -> None:
        """Keep the statistics of a pass, if there is room for them."""
        arrays = {
            id(array): array
            for each in statistics.values()
            for group in each.groups
            for array in (group.importance, group.hessian, group.held_out)
            if array is not None
        }
        size = sum(array.nbytes for array in arrays.values())
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if size + _size(self._folder) > min(MOST_BYTES, SHARE * free):
            return
        self._make_room(size)
        stamp = uuid.uuid4().hex
        files = {key: f"{stamp}-{number}.npy" for number, key in enumerate(arrays)}
        for key, array in arrays.items():
            np.save(self._folder / files[key], array)
        index = {
            "kind": kind,
            "tensors": {
                name: {
                    "columns": each.columns,
                    "groups": [
                        {
                            "start": group.start,
                            "stop": group.stop,
                            "tokens": group.tokens,
                            "arrays": [
                                None if array is None else files[id(array)]
                                for array in (group.importance, group.hessian, group.held_out)
                            ],
                        }
                        for group in each.groups
                    ],
                }
                for name, each in statistics.items()
            },
        }
        temporary = self._folder / f".{stamp}.partial"
        temporary.write_text(json.dumps(index), "utf-8")
        temporary.replace(self._folder / f"{stamp}.json")

    def _tensor(self, entry: Mapping[str, Any]) -> TensorStatistics:
        return TensorStatistics(
            entry["columns"],
            tuple(
                RowStatistics(
                    group["start"],
                    group["stop"],
                    group["tokens"],
                    self._array(group["arrays"][0]),
                    *(None if name is None else self._array(name) for name in group["arrays"][1:]),
                )
                for group in entry["groups"]
            ),
        )

    def _array(self, name: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.load(
            self._folder / Path(name).name, mmap_mode="r", allow_pickle=False
        )
        if found.dtype != np.float32:
            raise ValueError(f"{name} holds {found.dtype}")
        return found

    def _make_room(self, size: int) -> None:
        """Remove other models' folders, the oldest first, until so many bytes more are allowed."""
        others = [each for each in self._parent.iterdir() if each.is_dir() and each != self._folder]
        others.sort(key=lambda each: each.stat().st_mtime)
        total = size + _size(self._folder) + sum(map(_size, others))
        for each in others:
            if total <= MOST_BYTES_IN_ALL:
                return
            total -= _size(each)
            shutil.rmtree(each, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
