"""What it costs to index 10,000 files that have not changed: seconds, and passages embedded.

Each file is a chunk or two, and searched by words alone, so that making the library does not take
an hour; what is unchanged is found out in the same way with any embedder.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from edgellm.api.rag import open_library


def main() -> None:
    """Measure, and print a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "docs"
        old = time.time() - 1000
        for number in range(options.files):
            path = folder / f"{number % 100}" / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"The document {number} is about the word w{number}. " * 12)
            os.utime(path, (old, old))
        figures: dict[str, float] = {"files": options.files}
        with open_library(Path(temporary) / "l.db", write=True, embedder="none") as library:
            for name in ("first", "unchanged", "touched", "after"):
                if name == "touched":
                    for path in folder.glob("*/*.txt"):
                        os.utime(path, (old + 1, old + 1))
                began = time.perf_counter()
                report = library.index([folder])
                figures[f"{name}_s"] = time.perf_counter() - began
                figures[f"{name}_embedded"] = report.embedded
                figures[f"{name}_unchanged"] = report.unchanged
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
