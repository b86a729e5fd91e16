"""Make a draft model: a GGUF file with only some of another one's layers.

python benchmarks/shallow.py MODEL.gguf shallow.gguf --keep 0-9,25-29
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import gguf
import numpy as np

BLOCK = re.compile(r"blk\.(\d+)\.(.*)")


def chosen(text: str) -> list[int]:
    """Read a list of numbers and ranges."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def main() -> None:
    """Copy metadata and the layers that are kept."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--keep", type=chosen, required=True, help="layers, as 0-9,25-29")
    args = parser.parse_args()
    reader = gguf.GGUFReader(args.source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(args.target, architecture)
    count = f"{architecture}.block_count"
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = len(args.keep) if name == count else field.contents()
        writer.add_key_value(name, value, kind, sub_type=inner)
    places = {layer: at for at, layer in enumerate(args.keep)}
    for tensor in reader.tensors:
        name = tensor.name
        if match := BLOCK.fullmatch(name):
            if int(match[1]) not in places:
                continue
            name = f"blk.{places[int(match[1])]}.{match[2]}"
        writer.add_tensor(name, np.asarray(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
