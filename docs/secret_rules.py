"""Make `ms_codegeex/extras/corpus/rules/gitleaks.json` from a clone of github.com/gitleaks/gitleaks at a release.

    git -C CLONE checkout v8.30.1 && python docs/secret_rules.py CLONE

The rules become data of two kinds. *Tokens* are known by themselves, such as `shippo_live_…`. *Assigned* values are
known by the service that is named before them, such as `plaid_secret = "…"`. What surrounds them in gitleaks' patterns
(the name's end, the operator, quotes) is left out: `ms_codegeex.extras.corpus.redaction` has one pattern for that.
`LEFT_OUT` are rules which need a file's path or several lines, or which are too wide.
"""

from __future__ import annotations

import json
import re
import re._constants as kinds  # no other parser of Python's gives the parts of a pattern
import re._parser as parser
import subprocess
import sys
from pathlib import Path

import tomllib

TARGET = Path(__file__).resolve().parents[1] / "ms_codegeex/extras/corpus/rules/gitleaks.json"
LEFT_OUT = {
    "aws-amazon-bedrock-api-key-short-lived": "a constant; `issuers.yaml` has its own",
    "curl-auth-header": "`secrets` has its own",
    "curl-auth-user": "`secrets` has its own",
    "facebook-access-token": "needs a word elsewhere in the file",
    "freemius-secret-key": "of a path; an assignment",
    "generic-api-key": "`secrets` has its own",
    "hashicorp-tf-password": "of a path; an assignment",
    "kubernetes-secret-yaml": "of a path and several lines",
    "nuget-config-password": "of a path; an assignment",
    "pkcs12-file": "of a path",
    "private-key": "`secrets` has its own",
    "sidekiq-sensitive-url": "a password in a URL",
    "microsoft-teams-webhook": "`issuers.yaml` has its own",
    "slack-webhook-url": "`issuers.yaml` has its own",
    "sourcegraph-access-token": "any 40 hexadecimal digits; `issuers.yaml` has its own",
}
_AFTER = (
    r"""(?:[\x60'"\s;]|\\[nr]|$)""",
    r"""(?:[\x60'"\s;]|\\[nr]|$|\b)""",
    r"(?:[^\w-]|\z)",
    r"(?:[^a-zA-Z0-9+/]|\z)",
)
_AZURE = (r"""(?:^|[\\'"\x60\s>=:(,)])""", r"""(?:$|[\\'"\x60\s<),])""")
_ASSIGNED = re.compile(r".*?\{0,50\}\?\(\?:(?P<names>.*)\)\(\?:\[ \\t\\w\.-\]\{0,20\}\)(?P<value>.*)", re.S)
_OPERATOR = r"""(?:=|>|:{1,3}=|\|\||:|=>|\?=|,)[\x60'"\s=]{0,5}"""


def _without_borders(pattern: str) -> str:
    for after in (*_AFTER, _AZURE[1]):
        pattern = pattern.removesuffix(after)
    return pattern.removeprefix(_AZURE[0]).removeprefix("(?i)\\b").removeprefix("\\b").removesuffix("\\b")


_BEGINNING = 10  # characters of a token that are looked for first
_CLASSES = {kinds.CATEGORY_WORD: r"\w", kinds.CATEGORY_DIGIT: r"\d", kinds.CATEGORY_SPACE: r"\s"}
_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|\(\?i\)|\((?:\?P<\w+>|\?[a-z-]*:)?|\)|.", re.S)


def _for_python(pattern: str) -> str:
    """A pattern of Go in Python's syntax: `(?i)` in the middle becomes a group that ends with the one around it."""
    made, opened = [], [0]
    for part in (match[0] for match in _PART.finditer(pattern)):
        if part == "(?i)":
            made.append("(?i:")
            opened[-1] += 1
        elif part == ")":
            made.append(")" * (opened.pop() + 1))
        else:
            opened += [0] if part.startswith("(") else []
            made.append(part.replace("[:alnum:]", "a-zA-Z0-9"))
    return "".join(made) + ")" * opened.pop()


def _class(items: list) -> str:
    made = ""
    for kind, value in items:
        if kind is kinds.NEGATE:
            made += "^"
        elif kind is kinds.CATEGORY:
            made += _CLASSES[value]
        else:
            made += "-".join(re.escape(chr(code)) for code in (value if kind is kinds.RANGE else (value,)))
    return f"[{made}]"


def _beginning(parts: list, most: int) -> tuple[str, int, bool]:
    """A pattern of the first characters, how many they are at least, and whether what follows may be added to it."""
    made, size = "", 0
    for kind, value in parts:
        if size >= most:
            return made, size, False
        if kind is kinds.AT:
            continue
        if kind is kinds.ANY:
            made, size = made + ".", size + 1
        elif kind is kinds.LITERAL or kind is kinds.IN:
            made += re.escape(chr(value)) if kind is kinds.LITERAL else _class(value)
            size += 1
        elif kind is kinds.SUBPATTERN:
            _, on, off, inside = value
            text, length, more = _beginning(inside, most - size)
            made += f"(?{'i' if on & re.I else ''}{'-i' if off & re.I else ''}:{text})"
            size += length
            if not more:
                return made, size, False
        elif kind is kinds.BRANCH:
            branches = [_beginning(branch, most - size) for branch in value[1]]
            made += f"(?:{'|'.join(text for text, _, _ in branches)})"
            size += min(length for _, length, _ in branches)
            if not all(more for _, _, more in branches):
                return made, size, False
        else:  # a repetition
            least, greatest, inside = value
            text, length, _ = _beginning(inside, 99)
            if not least:
                return made, size, False
            number = min(least, -(-(most - size) // max(length, 1)))
            made += f"(?:{text}){{{number}}}"
            size += number * length
            if number < least or greatest != least:
                return made, size, False
    return made, size, size < most


def _token(rule: dict, pattern: str) -> dict:
    parts = list(parser.parse(_for_python(pattern)))
    begins, _, _ = _beginning(parts, _BEGINNING)
    if re.match(r"(?:\(\?[i-]*:)*\[", begins):  # any word: what makes it a token is further on
        begins = f"(?i:{'|'.join(re.escape(word) for word in rule['keywords'])})"
        token = {"id": rule["id"], "inside": begins, "pattern": pattern, "entropy": rule.get("entropy", 0)}
        return token
    allowed = [text for part in rule.get("allowlists", ()) for text in part.get("regexes", ())]
    token = {"id": rule["id"], "begins": begins, "pattern": pattern, "entropy": rule.get("entropy", 0)}
    return token | ({"allowed": allowed} if allowed else {})


def converted(rules: list[dict]) -> tuple[list[dict], list[dict]]:
    """gitleaks' rules as tokens and assigned values."""
    tokens, assigned = [], []
    for rule in rules:
        if rule["id"] in LEFT_OUT:
            continue
        pattern = rule["regex"]
        fold = "(?i)" if pattern.startswith("(?i)") else ""
        found = _ASSIGNED.fullmatch(pattern)
        if found is None:
            tokens.append(_token(rule, fold + _without_borders(pattern).removeprefix(fold)))
            continue
        value = found["value"].split(_OPERATOR, 1)[1]
        value, _, alternative = value.partition(_AFTER[0] + "|")  # Atlassian's rule is two
        if alternative:
            tokens.append(_token(rule, _without_borders(alternative)))
        value = fold + _without_borders(value)
        assigned.append({"id": rule["id"], "names": found["names"], "value": value, "entropy": rule.get("entropy", 0)})
    return tokens, assigned


def main() -> int:
    """Write the file."""
    clone = Path(sys.argv[1])
    tag = subprocess.run(["git", "describe", "--tags"], cwd=clone, check=True, capture_output=True, text=True)
    tokens, assigned = converted(tomllib.loads((clone / "config/gitleaks.toml").read_text())["rules"])
    head = {
        "source": "github.com/gitleaks/gitleaks, config/gitleaks.toml",
        "version": tag.stdout.strip(),
        "licence": (clone / "LICENSE").read_text(),
        "made by": "docs/secret_rules.py",
    }
    rows = [
        f' "{name}": [\n' + ",\n".join(f"  {json.dumps(rule)}" for rule in rules) + "\n ]"
        for name, rules in (("tokens", tokens), ("assigned", assigned))
    ]
    rows = [*(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()), *rows]
    TARGET.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    print(f"{TARGET.name}: {len(tokens)} tokens, {len(assigned)} assigned values, of gitleaks {head['version']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
