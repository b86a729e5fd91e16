"""Which parts of a model each recipe stores in another format than its base format.

A mix is data: for each role a list of rules, of which the first that holds decides. The numbers
are llama.cpp's, so that a file has the types that its own quantizer would give it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgellm_quant.errors import QuantError
from edgellm_quant.facts import ModelFacts, Role, layer_of

__all__ = ["DENSE_MIXES", "Mix", "Place", "Rule"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands when a rule looks at it.

    `index` counts the quantizable tensors of its role that came before; `count` is the number of
    attention values in the model for that role, and of layers for the feed-forward roles.
    """

    name: str
    index: int
    count: int
    model: ModelFacts
    has_importance: bool

    @property
    def layer(self) -> int:
        """The layer: counted in dense models; read from the name where layers hold experts.

        Raises:
            QuantError: the name has no layer of this model.
        """
        if self.model.n_experts <= 1:
            return self.index
        layer = layer_of(self.name)
        if not 0 <= layer < self.count:
            raise QuantError(f"{self.name}: names no layer of the {self.count} in the model")
        return layer


Condition = Callable[[Place], bool]


def _always(_: Place) -> bool:
    return True


def _first(part: int) -> Condition:
    """Hold for the first 1/part of the layers."""
    return lambda place: place.layer < place.count // part


def _first_counted(part: int) -> Condition:
    """Hold for the first 1/part by count, whatever layer the name tells."""
    return lambda place: place.index < place.count // part


def _index_below(limit: int) -> Condition:
    return lambda place: place.index < limit


def _spread(at: int, count: int) -> bool:
    """Hold for the first and the last eighth, and for every third one between."""
    return at < count // 8 or at >= 7 * count // 8 or (at - count // 8) % 3 == 2


def _spread_layers(place: Place) -> bool:
    return _spread(place.layer, place.count)


def _spread_counted(place: Place) -> bool:
    return _spread(place.index, place.count)


def _middle(place: Place) -> bool:
    return place.count // 8 <= place.layer < 7 * place.count // 8


def _shared_values(place: Place) -> bool:
    """Hold where four or more query heads share a value: it is small and matters much."""
    return place.model.heads_per_kv >= 4


def _shared_values_or_experts(place: Place) -> bool:
    return _shared_values(place) or place.model.n_experts >= 4


def _falcon(place: Place) -> bool:
    return place.model.architecture == "falcon"


def _eight_experts(place: Place) -> bool:
    return place.model.n_experts == 8


def _weighted(place: Place) -> bool:
    return place.has_importance


def _both(one: Condition, other: Condition) -> Condition:
    return lambda place: one(place) and other(place)


def _either(one: Condition, other: Condition) -> Condition:
    return lambda place: one(place) or other(place)


def _no(condition: Condition) -> Condition:
    return lambda place: not condition(place)


@dataclass(frozen=True, slots=True)
class Rule:
    """The name of a format, and when it is chosen."""

    format: str
    when: Condition = _always


Rules = tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Mix:
    """What a recipe does beside its base format.

    `output` is the format of the output matrix, and of an embedding that serves as one. `rules`
    are by role; a role without a rule that holds gets the base format. `lift_70b`: values of
    the 70B shape, which eight heads share, rise from Q3_K or Q4_K to Q5_K.
    """

    output: str = "Q6_K"
    rules: Mapping[Role, Rules] = field(default_factory=dict)
    lift_70b: bool = True


def _mix(
    *,
    output: str = "Q6_K",
    embedding: Rules = (),
    value: Rules = (),
    key: Rules = (),
    query: Rules = (),
    attention_output: Rules = (),
    down: Rules = (),
    gate_and_up: Rules = (),
) -> Mix:
    """Build a mix; with eight experts attention is so small a part that it gets Q8_0."""
    eight = Rule("Q8_0", _eight_experts)
    return Mix(
        output,
        {
            Role.EMBEDDING: embedding,
            Role.VALUE: (eight, *value),
            Role.KEY: (eight, *key),
            Role.QUERY: query,
            Role.ATTENTION_OUTPUT: attention_output,
            Role.DOWN: down,
            Role.GATE: gate_and_up,
            Role.UP: gate_and_up,
        },
    )


def _low(*, embedding: str, value: str, down: str, attention_output: Rules) -> Mix:
    """Build the mix of a recipe of fewer than three bits."""
    return Mix(
        "Q5_K",
        {
            Role.EMBEDDING: (Rule(embedding),),
            Role.VALUE: (Rule("Q4_K", _shared_values_or_experts), Rule(value)),
            Role.KEY: (Rule("Q4_K", _eight_experts),),
            Role.ATTENTION_OUTPUT: (Rule("Q5_K", _eight_experts), *attention_output),
            Role.DOWN: (Rule(down, _first_counted(8)),),
        },
        lift_70b=False,
    )


_EIGHT_OUTPUT = Rule("Q5_K", _both(_eight_experts, _no(_falcon)))
_USUAL = _no(_either(_falcon, _eight_experts))  # attention outputs of most models
_SMALL_TYPES_EMBEDDING = (Rule("Q4_K"),)
_IQ4 = _mix(
    value=(Rule("Q5_K", _shared_values),),
    down=(Rule("Q5_K", _both(_no(_weighted), _first(8))),),
    attention_output=(_EIGHT_OUTPUT,),
)

# Mixes by recipe; MXFP4_MOE is not among them, because it goes by the shape of tensors.
DENSE_MIXES: Mapping[str, Mix] = {
    "Q1_0": _mix(),
    "Q2_0": _mix(embedding=_SMALL_TYPES_EMBEDDING),
    "TQ1_0": _mix(embedding=_SMALL_TYPES_EMBEDDING),
    "TQ2_0": _mix(embedding=_SMALL_TYPES_EMBEDDING),
    "Q4_0": _mix(down=(Rule("Q4_1", _both(_weighted, _first(8))),)),
    "Q4_1": _mix(),
    "Q5_0": _mix(down=(Rule("Q5_1", _both(_weighted, _first(8))),)),
    "Q5_1": _mix(),
    "Q8_0": _mix(output="Q8_0"),
    "Q2_K": _mix(
        value=(Rule("Q4_K", _shared_values), Rule("Q3_K")),
        attention_output=(_EIGHT_OUTPUT, Rule("Q3_K", _USUAL)),
        down=(Rule("Q3_K"),),
    ),
    "Q2_K_S": _mix(
        value=(Rule("Q4_K", _shared_values),),
        down=(Rule("Q4_K", _first(8)),),
    ),
    "Q3_K_S": _mix(attention_output=(_EIGHT_OUTPUT,)),
    "Q3_K_M": _mix(
        value=(Rule("Q5_K", _index_below(2)), Rule("Q4_K")),
        attention_output=(_EIGHT_OUTPUT, Rule("Q4_K", _USUAL)),
        down=(Rule("Q5_K", _first(16)), Rule("Q4_K", _either(_no(_falcon), _spread_layers))),
    ),
    "Q3_K_L": _mix(
        value=(Rule("Q5_K"),),
        attention_output=(Rule("Q4_K", _falcon), Rule("Q5_K", _USUAL)),
        down=(Rule("Q4_K", _falcon), Rule("Q5_K")),
    ),
    "Q4_K_S": _mix(
        value=(Rule("Q5_K", _index_below(4)),),
        attention_output=(_EIGHT_OUTPUT,),
        down=(Rule("Q5_K", _both(_no(_falcon), _first(8))),),
    ),
    "Q4_K_M": _mix(
        value=(Rule("Q6_K", _spread_counted),),
        attention_output=(_EIGHT_OUTPUT,),
        down=(
            Rule("Q6_K", _both(_falcon, _first(16))),
            Rule("Q5_K", _both(_falcon, _spread_layers)),
            Rule("Q6_K", _both(_no(_falcon), _spread_layers)),
        ),
    ),
    "Q5_K_S": _mix(),
    "Q5_K_M": _mix(
        value=(Rule("Q6_K", _spread_counted),),
        down=(Rule("Q6_K", _spread_layers),),
    ),
    "Q6_K": _mix(),
    "IQ1_S": _low(embedding="Q2_K", value="Q2_K", down="Q2_K", attention_output=(Rule("IQ2_XXS"),)),
    "IQ1_M": _low(embedding="Q2_K", value="Q2_K", down="Q2_K", attention_output=(Rule("IQ2_XXS"),)),
    "IQ2_XXS": _low(embedding="Q2_K", value="Q2_K", down="Q2_K", attention_output=()),
    "IQ2_XS": _low(embedding="Q2_K", value="Q2_K", down="Q2_K", attention_output=()),
    "IQ2_S": _low(
        embedding="IQ3_S", value="IQ3_S", down="IQ3_S", attention_output=(Rule("IQ3_S"),)
    ),
    "IQ2_M": _low(
        embedding="IQ3_S", value="IQ3_S", down="IQ3_S", attention_output=(Rule("IQ3_S"),)
    ),
    "IQ3_XXS": _mix(
        output="Q5_K",
        embedding=(Rule("IQ3_S"),),
        value=(Rule("Q4_K", _shared_values), Rule("IQ3_S", _no(_weighted))),
        key=(Rule("IQ2_S"),),
        query=(Rule("IQ2_S"),),
        attention_output=(_EIGHT_OUTPUT, Rule("IQ3_S", _USUAL)),
        down=(
            Rule("Q4_K", _both(_no(_weighted), _first(8))),
            Rule("Q3_K", _no(_weighted)),
        ),
    ),
    "IQ3_XS": _mix(
        value=(Rule("Q4_K", _shared_values),),
        key=(Rule("IQ3_XXS"),),
        query=(Rule("IQ3_XXS"),),
        attention_output=(_EIGHT_OUTPUT,),
        gate_and_up=(Rule("IQ3_XXS", _middle),),
    ),
    "IQ3_S": _mix(value=(Rule("Q4_K", _shared_values),), attention_output=(_EIGHT_OUTPUT,)),
    "IQ3_M": _mix(
        value=(Rule("Q4_K"),),
        attention_output=(_EIGHT_OUTPUT, Rule("Q4_K", _USUAL)),
        down=(Rule("Q4_K", _either(_first(8), _both(_eight_experts, _spread_layers))),),
    ),
    "IQ4_NL": _IQ4,
    "IQ4_XS": _IQ4,
}
