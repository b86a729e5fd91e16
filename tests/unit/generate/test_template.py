"""Chat templates: as transformers renders them, and without harm."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgellm.errors import TemplateError
from edgellm.generate.sandbox import GenerationTag
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


GROW = (
    "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
)
GROW_TUPLE = GROW.replace("[ns.x, ns.x]", "(ns.x, ns.x)").replace("[1]", "(1,)")
TWICE = "{% macro twice() %}{% set ns.x = varargs %}{% endmacro %}"
# One native operation of each of these would take longer than the universe is old.
NATIVE = {
    "equal": GROW + "{{ ns.x == ns.y }}",
    "in": GROW + "{{ ns.x in [ns.y] }}",
    "a test": GROW + "{{ ns.x is eq ns.y }}",
    "a filter that tests": GROW + "{{ [ns.x] | select('eq', ns.y) | list }}",
    "sort": GROW + "{{ [ns.x, ns.y] | sort | length }}",
    "max": GROW + "{{ [ns.x, ns.y] | max }}",
    "a method of a list": GROW + "{{ [ns.x].index(ns.y) }}",
    "title": GROW + "{{ ns.x | title }}",
    "escape": GROW + "{{ ns.x | e }}",
    "refusing": GROW + "{{ raise_exception(ns.x) }}",
    "a key": GROW_TUPLE + "{% set d = {ns.x: 1} %}",
    "looking up": GROW_TUPLE + "{{ {}[ns.x] }}",
    "unique": GROW_TUPLE + "{{ [ns.x] | unique | list }}",
    "arguments": "{% set ns = namespace(x=(1,)) %}" + TWICE
    + "{% for i in range(60) %}{{ twice(ns.x, ns.x) }}{% endfor %}{{ ns.x == 1 }}{{ ns.x }}",
    "mappings": "{% set ns = namespace(x={}) %}{% for i in range(60) %}"
    "{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x == {} }}",
    "namespaces": "{% set ns = namespace(x=1) %}{% for i in range(60) %}"
    "{% set ns.x = namespace(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x }}",
    "a list many times": "{% set s = 'a' * 1000000 %}{{ ([s] * 100000) == ([s ~ 'b'] * 100000) }}",
    "defaults": "{% set x = ['a'] * 50000 %}"
    "{{ range(99999) | map(attribute='q', default=x) | list | length }}",
    "rounding": "{{ 1.5 | round(1000000000, 'ceil') }}",
    "lists of numbers": "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}"
    "{% set ns.x = ns.x + [range(99999) | list] %}{% endfor %}",
    "a width in a field": "{{ '{:{w}}'.format(1, w=999999999) }}",
    "a mapping of fields": "{{ '{a:>999999999}'.format_map({'a': 1}) }}",
    "insides through a field": "{{ '{0.__class__.__mro__}'.format('')[0].x.y }}",
}  # fmt: skip


@pytest.mark.parametrize("name", NATIVE)
def test_no_single_operation_takes_long(name):
    # In a process of its own: without the limits it could not be stopped, nor could pytest.
    code = (
        "from edgellm.generate.template import ChatTemplate, Message\n"
        "import sys\n"
        "from edgellm.errors import TemplateError\n"
        "try:\n"
        "    ChatTemplate(sys.argv[1]).render([Message('user', 'x')])\n"
        "except TemplateError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, NATIVE[name]], capture_output=True, text=True, timeout=20
    )
    assert done.stdout.startswith("the model's chat template"), done.stderr


def test_turns_have_a_limit_and_a_long_conversation_stays_below_it():
    before = time.thread_time()
    with pytest.raises(TemplateError, match="too large a text"):
        render("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    assert time.thread_time() - before < 9
    source = (
        "{% for m in messages[::-1] %}{% set last = messages | length - loop.index0 - 1 %}"
        "{% if m.role == 'user' and not (m.content | string).startswith('<') %}{{ last }}"
        "{% endif %}{% endfor %}{% for m in messages %}"
        "{% set text = m.content.split('</think>')[-1] | trim %}"
        "{{ '<|' + m.role + '|>' ~ text }}{% endfor %}"
    )
    turns = [Message(role, "سلام " * 1000) for role in ("user", "assistant")] * 200
    text = render(source, turns)
    assert text.count("سلام") == 400 * 1000


def plain_environment():
    """The environment of transformers, without any limit."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    env.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, **options
    )
    return env


SAME = (
    "{{ ['a', ('b', 1), {'c': none}] }}{{ (1, 2.5, true) | string }}"
    "{{ {'k': 'é'}.items() | list }}",
    "{% for k, v in {'b': 1, 'a': [2]}.items() %}{{ loop.index }}{{ loop.last }}{{ k }}{{ v }}"
    "{% endfor %}{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ loop.previtem }}{% else %}none"
    "{% endfor %}",
    "{% set ns = namespace(all=[], n=0) %}{% for m in messages %}{% set ns.all = ns.all + [m] %}"
    "{% set ns.n = ns.n + m.content | length %}{% endfor %}{{ ns.all == messages }}{{ ns.n }}",
    "{% macro say(m, ns, end='!') %}{{ m.content }}{{ end }}{{ ns.n }}{% endmacro %}"
    "{% set ns = namespace(n=5) %}{{ say(messages[0], ns) }}{{ say(messages[1], ns, end='?') }}",
    "{% macro box() %}[{{ caller() }}]{% endmacro %}{% call box() %}x{% endcall %}",
    "{{ messages | map(attribute='role') | unique | join(',') }}{{ messages | last }}"
    "{{ [3, 1, 2] | sort(reverse=true) }}",
    "{{ '{}-{b}'.format('a', b=messages[0].role) }}"
    "{{ messages[::-1] | map(attribute='role') | list }}",
    "{{ ['a', 'b'] | join('<') }}{{ messages | join('+', attribute='role') }}"
    "{{ 2.567 | round(1) }}",
    "{{ {'a': [1, {'b': []}], 'c': '<é>'} | tojson(indent=4) }}{{ [1, 2] | tojson }}",
    "{{ 'role' in messages[0] and messages[0].role in ['user', 'tool'] and 1 < 2 <= 3 }}",
    "{% set a, b = 1, 'x' %}{{ a }}{{ b }}{{ 'abc'[1:] }}{{ range(3) | list }}{{ [1] * 3 }}",
    "{{ messages | selectattr('content', 'defined') | rejectattr('role', 'in', ['user']) | list }}",
    "{{ cycler('a', 'b').next() }}{% for i in range(3) recursive %}{{ i }}"
    "{{ loop([9]) if i == 1 else '' }}{% endfor %}",
)


@pytest.mark.parametrize("source", SAME)
def test_it_renders_as_without_limits(source):
    messages = [{"role": m.role, "content": m.content} for m in TURNS]
    assert render(source) == plain_environment().from_string(source).render(messages=messages)


def test_a_render_after_a_stopped_one_has_its_whole_budget():
    template = ChatTemplate("{{ messages[0].content * (messages | length) ** 30 }}{{ 'ok' }}")
    with pytest.raises(TemplateError):
        template.render(TURNS)
    assert ChatTemplate("{{ 'ok' }}").render(TURNS) == "ok"
    assert template.render(TURNS[:1]) == "سلامok"
