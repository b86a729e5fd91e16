"""Prompts whose answers repeat their input, and prompts whose answers do not."""

from __future__ import annotations

__all__ = ["EDITING", "FREE", "Task"]

Task = tuple[str, str]  # a name, and the prompt

_BRIDGE = (
    "The old stone bridge was built in 1742 by a mason from the next valley. It has three arches, "
    "and the middle one is wide enough for a boat. In the flood of 1910 the water rose above the "
    "road, but the bridge stood. Today only walkers and cyclists may cross it. Every summer the "
    "village hangs lanterns along both sides, and children race paper boats under the arches."
)
_CODE = '''def total(prices, tax):
    """Give the sum of prices with tax."""
    result = 0
    for price in prices:
        if price < 0:
            raise ValueError("a price is negative")
        result = result + price
    return result * (1 + tax)


def average(prices):
    """Give the mean of prices."""
    if not prices:
        return 0
    return total(prices, 0) / len(prices)
'''
_JSON = (
    '{"name":"Mina Karimi","age":34,"city":"Shiraz","languages":["Persian","English","German"],'
    '"address":{"street":"Hafez Avenue","number":12,"postcode":"71946"},"orders":[{"id":1001,'
    '"item":"lamp","price":19.5},{"id":1002,"item":"chair","price":49.0}]}'
)
_LETTER = (
    "Dear Mr. Harris, thank you for your letter of 3 May. We have received the twelve boxes, and "
    "all of them are in good order. The invoice will be paid by the end of the month. Please send "
    "the next delivery to our new warehouse at 48 Mill Lane, and ask for Mrs. Patel. "
    "Yours sincerely, Anna Berg"
)
_MINUTES = (
    "1. The chair opened the meeting at ten. 2. The budget for next year was approved with nine "
    "votes to two. 3. The roof of the library needs repair, and Tom will ask for three offers. "
    "4. The summer party takes place on 12 July in the garden. 5. The next meeting is on 4 June."
)
_PERSIAN = (
    "کتابخانهٔ شهر ما هر روز از ساعت هشت صبح باز است. در طبقهٔ اول کتاب‌های کودکان و در طبقهٔ دوم "
    "کتاب‌های تاریخ و هنر قرار دارد. کتاب‌ها را می‌توان دو هفته نگه داشت."
)
_TABLE = "\n".join(
    f"{name}, {age}, {city}"
    for name, age, city in (
        ("Alice Brown", 31, "London"),
        ("Bruno Costa", 45, "Lisbon"),
        ("Clara Weiss", 28, "Vienna"),
        ("David Chen", 52, "Taipei"),
        ("Elena Petrova", 39, "Sofia"),
        ("Farid Ahmadi", 24, "Tabriz"),
    )
)

EDITING: tuple[Task, ...] = (
    ("repeat a text", f"Repeat this text word for word:\n\n{_BRIDGE}"),
    ("replace one word", f"Write this text again with 'bridge' replaced by 'tower':\n\n{_BRIDGE}"),
    ("correct a date", f"Write this letter again, but with 5 May as its date:\n\n{_LETTER}"),
    ("rename in code", f"Rename 'prices' to 'costs' in this Python code:\n\n{_CODE}"),
    ("copy code", f"Give me this Python code in a code block:\n\n```python\n{_CODE}```"),
    ("indent JSON", f"Write this JSON again with line breaks and indentation:\n\n{_JSON}"),
    ("list of minutes", f"Write each point of these minutes on a line of its own:\n\n{_MINUTES}"),
    ("table of CSV", f"Write these lines again as a table with | between columns:\n\n{_TABLE}"),
    ("shorten", f"Summarise this text in two sentences with its own words:\n\n{_BRIDGE}"),
    ("repeat Persian", f"Repeat this text word for word:\n\n{_PERSIAN}"),
)

FREE: tuple[Task, ...] = (
    ("sky", "Why is the sky blue?"),
    ("story", "Write a short story about a fisherman and a storm."),
    ("advice", "How do I learn to cook when I have little time?"),
    ("history", "Tell me about the history of the printing press."),
    ("poem", "Write a poem about winter mornings."),
    ("letter", "Write a letter to a friend about a new job in a bakery."),
    ("explain", "Explain how a bicycle stays upright."),
    ("opinion", "What are the pros and cons of living in a small town?"),
    ("travel", "Describe a walk through an old market in Isfahan."),
    ("Persian", "چرا آسمان آبی است؟ کوتاه توضیح بده."),
)
