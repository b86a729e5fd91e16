"""What is guessed, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.device.memory import DRAFT_MAX
from edgellm.errors import UsageError
from edgellm.generate.drafts import Drafts, Pace, check_speculate
from edgellm.generate.engine import GenerateOptions
from edgellm.generate.ngrams import Ngrams


def longest_before(tokens: list[int]) -> int:
    """How many tokens at the end occurred before, found by looking at every place."""
    found = 0
    for place in range(len(tokens) - 1):
        common = 0
        while common <= place and tokens[place - common] == tokens[-1 - common]:
            common += 1
        found = max(found, common)
    return found


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 20))
def test_a_place_is_found_wherever_three_tokens_occurred_before(tokens, count):
    ngrams = Ngrams()
    ngrams.extend(tokens[:17])
    ngrams.extend(tokens[17:])
    place, common = ngrams.find()
    longest = longest_before(tokens)
    if longest < 3:
        assert (place, common) == (-1, 0)
        return
    assert 3 <= common <= longest
    assert tokens[place + 1 - common : place + 1] == tokens[len(tokens) - common :]
    # What follows a place goes round from there when the text is at its end.
    longer = list(tokens)
    for _ in range(count):
        longer.append(longer[place + 1 + len(longer) - len(tokens)])
    assert ngrams.after(place, count) == longer[len(tokens) :]


def test_the_longest_of_several_places_is_taken():
    ngrams = Ngrams()
    ngrams.extend([9, 1, 2, 3, 50, 8, 1, 2, 3, 60, 9, 1, 2, 3])
    assert ngrams.find() == (3, 4)
    assert ngrams.after(3, 2) == [50, 8]


def test_guesses_grow_while_they_are_right_and_get_rare_when_they_are_not():
    pace = Pace(16)
    lengths = []
    for _ in range(5):
        lengths.append(pace.length)
        pace.tell(pace.length, pace.length)
    assert lengths == [2, 4, 8, 16, 16]
    pace.tell(16, 7)
    assert (pace.length, pace.failures) == (8, 0)
    for _ in range(5):
        pace.tell(pace.length, 0)
    assert (pace.length, pace.failures) == (2, 5)
    pace.tell(2, 2)
    assert (pace.length, pace.failures) == (4, 0)


def test_a_guess_by_a_model_has_to_save_more_than_its_cost():
    for cost, failures in ((0.1, 0), (0.5, 1)):
        pace = Pace(16, cost)
        pace.tell(4, 2)
        assert pace.failures == failures


def decode(drafts: Drafts, prompt: list[int], text: list[int]) -> int:
    """Write a text as a context does; give the number of batches."""
    held, batches, at = list(prompt), 0, 0
    drafts.begin(held)
    while at < len(text) - 1:
        draft = drafts.propose(held, text[at], 16)
        assert len(draft) <= 16
        batches += 1
        held.append(text[at])
        at += 1
        for token in draft:
            if at >= len(text) - 1 or token != text[at]:
                break
            drafts.accept()
            held.append(token)
            at += 1
    return batches


def test_a_repeated_prompt_takes_few_batches():
    prompt = list(range(100, 200))
    drafts = Drafts()
    assert decode(drafts, prompt, prompt) < 15
    assert drafts.accepted > 85
    assert drafts.drafted <= drafts.accepted + 16


def test_repeats_that_go_on_otherwise_are_not_guessed_for_long():
    """Three tokens that come again and again, each time before other ones."""
    text = [token for at in range(100) for token in (1, 2, 3, 1000 + at, 2000 + at)]
    drafts = Drafts()
    decode(drafts, [5, 6, 7], text)
    assert drafts.accepted == 0
    assert drafts.drafted <= 10


def test_tokens_that_were_put_in_place_of_a_sampled_one_are_seen():
    drafts = Drafts()
    drafts.begin([1, 2, 3, 4, 5, 6])
    assert drafts.propose([1, 2, 3, 4, 5, 6], 9, 16) == ()
    held = [1, 2, 3, 4, 5, 6, 1, 2]
    assert list(drafts.propose(held, 3, 16)) == [4, 5]


def test_no_room_no_guess():
    drafts = Drafts()
    drafts.begin([1, 2, 3, 4, 1, 2])
    assert list(drafts.propose([1, 2, 3, 4, 1, 2], 3, 0)) == []


def test_options_out_of_range_are_refused():
    assert check_speculate("ngram") == "ngram"
    for fields in ({"speculate": "medusa"}, {"draft_max": 0}, {"draft_max": DRAFT_MAX + 1}):
        with pytest.raises(UsageError):
            GenerateOptions(**fields)
