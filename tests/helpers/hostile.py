"""A corpus with texts that a page has to survive."""

from helpers.encodes import some_texts

SCRIPT = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
ARABIC, FAMILY, ENDLESS = "كتاب جديد عن الطبخ", "👩‍👩‍👧‍👦 family 🎉", "the house " * 3000
TEXTS = [SCRIPT, None, ARABIC, FAMILY, ENDLESS, "a red car", "a red car", *some_texts(33)]
TOPICS = ["<b>bold</b>", None, "عربي", *(f"topic {i % 3}" for i in range(37))]
