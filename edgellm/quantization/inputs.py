"""Which weights meet which inputs, read from the graph of the running model.

Names do not tell it: whether two weights share an input, which experts a stack has, where the rows
of the values begin in a fused matrix. The graph does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgellm.backends.llama_cpp.observe import GraphNode

__all__ = ["Attention", "Input", "Weight", "find_inputs"]

PRODUCTS = ("MUL_MAT", "MUL_MAT_ID")
LAYER = re.compile(r"blk\.\d+\.")
VALUES = re.compile(r"(?:.*\.)?blk\.(\d+)\.attn_(v|qkv)\.weight")
PROBABILITIES = "kq_soft_max-{}"  # llama.cpp's name for those of a layer
# What may stand between a fused matrix and the parts that its product is cut into.
CARRIED = ("ADD", "CLAMP", "RESHAPE", "VIEW")


@dataclass(frozen=True, slots=True)
class Attention:
    """How a layer's values are averaged.

    Attributes:
        probabilities: the name of the node that computes them.
        position: where it stands in the graph.
        groups: key-value heads.
        size: values in a head.
        first_row: the rows of the weight before those of the values (of a fused matrix).
    """

    probabilities: str
    position: int
    groups: int
    size: int
    first_row: int


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight: `rows` in each of its matrices, and how its rows' outputs are averaged, if so."""

    name: str
    rows: int
    attention: Attention | None


@dataclass(frozen=True, slots=True)
class Input:
    """What one or more weights are multiplied with.

    Attributes:
        probe: the weight at whose product it is read: the first in the graph that takes it.
        times: how many products of that weight there are in the graph.
        position: of the last of them in the graph.
        columns: values in an input vector.
        matrices: how many lie in a stack: experts, or heads that have a matrix each.
        experts: whether each token meets some of the matrices alone.
        weights: those wanted that take it, in the graph's order.
        early: the node that computes it, where it can be read there; the product itself need not be
            computed then. That of a vocabulary costs much; other products are needed in any case.
    """

    probe: str
    times: int
    position: int
    columns: int
    matrices: int
    experts: bool
    weights: tuple[Weight, ...]
    early: str | None = None


def find_inputs(
    nodes: Sequence[GraphNode], wanted: Iterable[str]
) -> tuple[list[Input], dict[str, str]]:
    """Find the inputs of the wanted weights, in the order in which the graph computes them.

    Returns:
        The inputs, and a sentence on each weight that is in none, or whose values are averaged in a
        way that is not known here.
    """
    names = dict.fromkeys(wanted)
    notes: dict[str, str] = {}
    products: dict[str, list[int]] = {}
    for position, node in enumerate(nodes):
        if node.op in PRODUCTS and node.sources[0].op == "NONE":
            products.setdefault(node.sources[0].name, []).append(position)
    # Weights share an input where all their products take the same tensors.
    taking: dict[tuple[object, ...], list[str]] = {}
    for name, positions in products.items():
        taking.setdefault(tuple(_input_of(nodes[at]) for at in positions), []).append(name)
    found = []
    for sharing in taking.values():
        weights = []
        for name in sharing:
            if name not in names:
                continue
            attention, note = _attention(nodes, products[name], name)
            if note:
                notes[name] = note
            weights.append(Weight(name, nodes[products[name][0]].sources[0].shape[2], attention))
        if weights:
            at = products[sharing[0]]
            found.append(_input(nodes, sharing[0], at, tuple(weights)))
    met = {weight.name for each in found for weight in each.weights}
    notes |= {name: "is multiplied with nothing" for name in names if name not in met}
    return sorted(found, key=lambda each: each.position), notes


def _input(
    nodes: Sequence[GraphNode], probe: str, at: Sequence[int], weights: tuple[Weight, ...]
) -> Input:
    node = nodes[at[0]]
    stacks, matrices, _, columns = node.sources[0].shape
    experts = node.op == "MUL_MAT_ID"
    early = None
    if not LAYER.search(probe) and len(at) == 1 and stacks * matrices == 1 and not experts:
        early = _computed_at(nodes, at[0])
    return Input(probe, len(at), at[-1], columns, stacks * matrices, experts, weights, early)


def _computed_at(nodes: Sequence[GraphNode], product: int) -> str | None:
    """Name the node that computes the input of a product; None if another has its name."""
    wanted = nodes[product].sources[1].address
    maker = next((n for n in reversed(nodes[:product]) if n.address == wanted), None)
    names = [node.name for node in nodes]
    return maker.name if maker is not None and names.count(maker.name) == 1 else None


def _input_of(node: GraphNode) -> tuple[int, ...]:
    """Tell inputs apart: the tensors, the number of matrices and the way of choosing them."""
    weight, *operands = node.sources
    stacks, matrices, _, _ = weight.shape
    experts = node.op == "MUL_MAT_ID"
    return (node.graph, stacks * matrices, experts, *(each.address for each in operands))


def _attention(
    nodes: Sequence[GraphNode], products: Sequence[int], name: str
) -> tuple[Attention | None, str | None]:
    """Find how the outputs of a weight are averaged; a note where that is not clear."""
    match = VALUES.fullmatch(name)
    if match is None:
        return None, None
    layer, kind = match.groups()
    product = nodes[products[0]]
    called = PROBABILITIES.format(layer)
    at = [
        position
        for position, node in enumerate(nodes)
        if node.op == "SOFT_MAX" and node.name == called
    ]
    plain = "its values are taken as they are, without the attention's average: "
    if not at:
        return None, plain + f"there is no {called}"
    if len(at) > 1 or len(products) > 1:
        return None, plain + f"there is more than one {called}"
    averages = [
        node
        for node in nodes
        if node.op == "MUL_MAT"
        and node.graph == nodes[at[0]].graph == product.graph
        and node.sources[1].address == nodes[at[0]].address
    ]
    if len(averages) != 1 or nodes[at[0]].shape[0] != 1:
        return None, plain + "its use is not known here"
    _, groups, size, _ = averages[0].sources[0].shape
    stacks, matrices, rows, _ = product.sources[0].shape
    first = rows - groups * size
    heads = nodes[at[0]].shape[1]
    fits = stacks == matrices == 1 and heads % groups == 0 and (first > 0) == (kind == "qkv")
    if not fits or (first and not _cut_at(nodes, products[0], first, (groups, size))):
        return None, plain + "its rows are not laid out as known here"
    return Attention(called, at[0], groups, size, first), None


def _cut_at(nodes: Sequence[GraphNode], product: int, row: int, shape: tuple[int, int]) -> bool:
    """Whether the part of a fused product from `row` on is taken as heads of that shape."""
    carried = {nodes[product].address}
    for node in nodes[product + 1 :]:
        if node.graph != nodes[product].graph:
            break
        if node.op not in CARRIED or node.sources[0].address not in carried:
            continue
        ends = node.shape[2:] == shape or node.shape[3] == shape[0] * shape[1]
        if node.op == "VIEW" and node.view_offset == 4 * row and ends:
            return True
        carried.add(node.address)
    return False
