"""Chat templates: as transformers renders them, and without harm."""

from __future__ import annotations

import sys
import time

import pytest

from edgellm.errors import TemplateError
from edgellm.generate.template import MAX_TEMPLATE, ChatTemplate, Message

TURNS = [Message("user", "سلام"), Message("assistant", "می‌بینم"), Message("user", "<b>&\n")]


def render(source: str, messages=None, **values) -> str:
    template = ChatTemplate(source, bos="<s>", eos="</s>")
    return template.render(messages or TURNS, variables=values)


def test_loops_trimmed_blocks_and_tokens():
    source = (
        "{{ bos_token }}\n"
        "{% for m in messages %}\n"
        "    {% if m.role == 'user' %}\n"
        "U: {{ m['content'] | trim }}\n"
        "    {% else %}\n"
        "A: {{ m.content }}{{ eos_token }}\n"
        "    {% endif %}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}A:{% endif %}"
    )
    assert render(source) == "<s>\nU: سلام\nA: می‌بینم</s>\nU: <b>&\nA:"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ {'a': '<é>', 'b': [1, none]} | tojson }}", '{"a": "<é>", "b": [1, null]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
         "{% endfor %}{{ ns.n }}", "3"),
        ("{{ messages[0].content.strip() ~ '|' ~ messages|length }}", "سلام|3"),
        ("{{ 'a,b'.split(',') | join('-') }}{{ ','.join(['x', 'y']) }}", "a-bx,y"),
        ("{{ 'aXbX'.replace('X', '') }}{{ 'a' | replace('a', 'bb') }}", "abbb"),
        ("{{ messages[1:] | map(attribute='role') | join(' ') }}", "assistant user"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "2"),
        ("{{ 'think</think>x'.split('</think>')[-1] }}{{ 'a' * 3 }}", "xaaa"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('y') }}", "[y]"),
        ("{% generation %}{{ 'x' }}{% endgeneration %}", "x"),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x }}", "a1"),
        ("{{ missing }}{{ tools is none }}{{ missing is defined }}", "TrueFalse"),
        ("{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 5 }}", "3332"),
    ],
)  # fmt: skip
def test_what_templates_use(source, expected):
    assert render(source) == expected


def test_the_date_of_now():
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")


def test_a_template_refuses_messages_in_its_own_words():
    with pytest.raises(TemplateError, match="refuses the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


HARM = {
    "python's insides": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__['sys'] }}",
    "format string": "{{ '{:>99999999999}'.format(1) }}",
    "percent format": "{{ '%99999999999d' % 1 }}",
    "repeat": "{{ 'a' * 10000000000 }}",
    "repeat from the left": "{{ 10000000000 * 'a' }}",
    "repeat a list": "{{ ([0] * 10000000000) | length }}",
    "method of padding": "{{ 'a'.center(10000000000) }}",
    "filter of padding": "{{ 'a' | center(10000000000) }}",
    "endless loop": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "range": "{{ range(1000000000) | list }}",
    "doubling": "{% set ns = namespace(x='aaaaaaaa') %}"
    "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "doubling with +": "{% set ns = namespace(x='aaaaaaaa') %}"
    "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "squaring with replace": "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(9) %}"
    "{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
    "squaring with the filter": "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(9) %}"
    "{% set ns.x = ns.x | replace('a', ns.x) %}{% endfor %}",
    "squaring with join": "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(9) %}"
    "{% set ns.x = ns.x.join(ns.x) %}{% endfor %}",
    "nested lists as text": "{% set ns = namespace(x=[1, 1]) %}{% for i in range(50) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "nested lists in a filter": "{% set ns = namespace(x=[1, 1]) %}{% for i in range(50) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | string | length }}",
    "nested lists as JSON": "{% set ns = namespace(x=[1, 1]) %}{% for i in range(50) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson | length }}",
    "nested lists joined": "{% set ns = namespace(x=[1, 1]) %}{% for i in range(50) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ [ns.x] | join('') | length }}",
    "a large power": "{{ 9 ** 999999999 }}",
    "squaring a number": "{% set ns = namespace(x=9) %}{% for i in range(60) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x > 1 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "changing the messages": "{{ messages.append(1) }}",
    "reading a file": "{% include '/etc/passwd' %}",
    "lorem ipsum": "{{ lipsum(100000) }}",
    "syntax": "{% for %}",
    "unknown filter": "{{ 1 | nothing }}",
    "indent of a huge width": "{% set ns = namespace(x='a\n') %}{% for i in range(40) %}"
    "{% set ns.x = (ns.x ~ ns.x) | indent(1000) %}{% endfor %}",
    "deep nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "too long": "a" * (MAX_TEMPLATE + 1),
}


@pytest.mark.parametrize("name", HARM)
def test_harm_is_one_sentence_in_time(name):
    before = time.monotonic()
    with pytest.raises(TemplateError) as caught:
        render(HARM[name])
    assert time.monotonic() - before < 12  # the limit of seconds, with room for a slow machine
    assert "\n" not in str(caught.value)


def test_the_tracer_of_a_debugger_is_given_back():
    def tracer(frame, event, arg):
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        render("{{ 1 }}")
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


def test_a_render_after_a_stopped_one_has_its_whole_budget():
    template = ChatTemplate("{{ messages[0].content * (messages | length) ** 30 }}{{ 'ok' }}")
    with pytest.raises(TemplateError):
        template.render(TURNS)
    assert ChatTemplate("{{ 'ok' }}").render(TURNS) == "ok"
    assert template.render(TURNS[:1]) == "سلامok"
