"""The message that asks a chat model to complete a text."""

from __future__ import annotations

from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import given_text

PLACE = "{prompt}"
TEMPLATE = f"""Complete the code below. Answer with one code block: the complete function, with the imports and helper
functions that it needs, and nothing else. No tests, no examples, no main function.

```
{PLACE}
```"""


def read_template(path: Path | None) -> str:
    """The text of a message, with `{prompt}` for the text to be continued; `TEMPLATE` without a file."""
    if path is None:
        return TEMPLATE
    text = given_text(str(path), "--chat-template")
    if PLACE not in text:
        raise UserError(f"--chat-template: {path} lacks {PLACE}; put it where the code to be completed belongs")
    return text


def message(template: str, prompt: str) -> str:
    """What a model is asked."""
    return template.replace(PLACE, prompt)
