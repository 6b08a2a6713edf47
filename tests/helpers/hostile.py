"""A corpus with texts that a page has to survive."""

from helpers.encodes import some_texts

# Markup that runs where it is taken for markup, and goes on for longer than a model reads and a window holds.
SCRIPT = (
    "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
    + " the house" * 3000
)
ARABIC, FAMILY = "كتاب جديد عن الطبخ", "👩‍👩‍👧‍👦 family 🎉"
TEXTS = [SCRIPT, None, ARABIC, FAMILY, "a red car", "a red car", *some_texts(34)]
TOPICS = ["<b>bold</b>", None, "عربي", *(f"topic {i % 3}" for i in range(37))]
