"""Two tools: a calculator, and a search in the text files of the folder `notes` beside this file.

edgellm run --tools benchmarks/tools_data/tools.py "What is 37 times 41?"
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

__all__ = ["calculate", "search_files"]

NOTES = Path(__file__).resolve().parent / "notes"
MOST_LINES = 5
DIGITS = str.maketrans("۰۱۲۳۴۵۶۷۸۹×÷−", "0123456789*/-")
OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def calculate(expression: Annotated[str, re.compile(r"[-0-9۰-۹+*/().×÷ ]+")]) -> str:
    """Work out an arithmetic expression.

    Args:
        expression: numbers and + - * / ** and brackets.

    Examples:
        Question: What is 12 times 9?
        Thought: These numbers have to be worked out with calculate.
        Arguments: {"expression": "12 * 9"}
        Result: 108
        Answer: 12 times 9 is 108.

        Question: There are 30 chairs and 14 of them are taken. How many are free?
        Thought: These numbers have to be worked out with calculate.
        Arguments: {"expression": "30 - 14"}
        Result: 16
        Answer: 16 chairs are free.

        Question: A car uses 7 litres a day. How much does it use in 31 days?
        Thought: These numbers have to be worked out with calculate.
        Arguments: {"expression": "7 * 31"}
        Result: 217
        Answer: It uses 217 litres.

        Question: What is 60 + 15?
        Thought: These numbers have to be worked out with calculate.
        Arguments: {"expression": "60 + 15"}
        Result: 75
        Answer: 60 + 15 is 75.

        Question: حاصل ۱۲ × ۹ چند است؟
        Thought: این عددها را باید با calculate حساب کرد.
        Arguments: {"expression": "۱۲ * ۹"}
        Result: 108
        Answer: حاصل 108 است.

        Question: جمع ۳۱ و ۱۴ چند است؟
        Thought: این عددها را باید با calculate حساب کرد.
        Arguments: {"expression": "۳۱ + ۱۴"}
        Result: 45
        Answer: جمع آن‌ها 45 است.
    """
    value = _value(ast.parse(expression.translate(DIGITS).strip(), mode="eval").body)
    return str(round(value, 6)) if value % 1 else str(int(value))


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and (abs(left) > 1e6 or abs(right) > 64):
            raise ValueError("the power is too large")
        return OPERATIONS[type(node.op)](left, right)
    raise ValueError("only numbers and + - * / ** and brackets can be worked out")


def search_files(word: str) -> str:
    """Find the lines of the notes that hold a word: people, places, prices, times.

    Args:
        word: one word or a name to look for.

    Examples:
        Question: What is the name of the baker?
        Thought: This stands in the notes, to be found with search_files.
        Arguments: {"word": "baker"}
        Result: shops.txt: The baker is called Anton.
        Answer: The baker is called Anton.

        Question: When does the museum close?
        Thought: This stands in the notes, to be found with search_files.
        Arguments: {"word": "museum"}
        Result: city.txt: The museum closes at 6 in the evening.
        Answer: The museum closes at 6 in the evening.

        Question: Where does Julia work?
        Thought: This stands in the notes, to be found with search_files.
        Arguments: {"word": "Julia"}
        Result: people.txt: Julia works at the bank.
        Answer: Julia works at the bank.

        Question: Who has the key to the cellar?
        Thought: This stands in the notes, to be found with search_files.
        Arguments: {"word": "cellar"}
        Result: house.txt: Peter has the key to the cellar.
        Answer: Peter has the key to the cellar.

        Question: موزه چه ساعتی باز می‌شود؟
        Thought: این در یادداشت‌ها هست و با search_files پیدا می‌شود.
        Arguments: {"word": "موزه"}
        Result: شهر.txt: موزه ساعت ۹ باز می‌شود.
        Answer: موزه ساعت ۹ باز می‌شود.

        Question: نام نانوا چیست؟
        Thought: این در یادداشت‌ها هست و با search_files پیدا می‌شود.
        Arguments: {"word": "نانوا"}
        Result: مردم.txt: نام نانوا امید است.
        Answer: نام نانوا امید است.
    """
    found = []
    for file in sorted(NOTES.glob("*.txt")):
        lines = file.read_text(encoding="utf-8").splitlines()
        wanted = word.strip().casefold()
        found += [f"{file.name}: {line.strip()}" for line in lines if wanted in line.casefold()]
    return "\n".join(found[:MOST_LINES]) or f"no line holds {word!r}"
