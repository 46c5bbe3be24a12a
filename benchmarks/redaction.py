"""Recall and precision of `prepare --redact`, on secrets and addresses planted in real source code.

    python benchmarks/redaction.py                          # sources of the running interpreter's packages
    python benchmarks/redaction.py --input ~/src --list     # every replacement in sources without planted text too
    python benchmarks/redaction.py --quick                  # few sources, to see that it works

Recall: each format of `PLANTED` is drawn at random `--each` times (nothing here is a real secret), put into a line of
the kind that it occurs in, and planted in a source file; found, if it is gone from the redacted text. The same for the
cases with which gitleaks checks its rules (`gitleaks_cases.py`). Precision: `NEAR_MISSES`, which only look similar, are
planted in the same way; one that changes is a false alarm. Nobody has judged the replacements in the sources
themselves. Speed: one process, the median of five rounds.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import statistics
import string
import sys
import time
from collections import Counter
from pathlib import Path

import gitleaks_cases
from common import options, print_header

from ms_codegeex.extras.corpus.redaction import REDACTIONS, redact

_ALPHABETS = {
    "w": string.ascii_letters + string.digits,
    "l": string.ascii_letters,
    "h": "0123456789abcdef",
    "H": "0123456789ABCDEF",
    "d": string.digits,
    "u": string.ascii_letters + string.digits + "-_",
    "b": string.ascii_letters + string.digits + "+/",
    "U": string.ascii_uppercase + string.digits,
    "B": string.ascii_uppercase + "234567",
    "c": string.ascii_lowercase + string.digits,
    "j": string.ascii_lowercase + string.digits + "!@#$%^&*(-_=+)",
    "s": "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz",
}

# Format, secret with {length and alphabet}, and the line around it. The formats are those that issuers document.
PLANTED: tuple[tuple[str, str, str], ...] = (
    ("e-mail address", "{7c}.{9l}@{8c}.org", "# written by A. Name <%s>"),
    ("e-mail address", "{6c}@mail.{10c}.co.uk", 'AUTHOR = "%s"'),
    ("AWS access key", "AKIA{16B}", "aws_access_key_id = %s"),
    ("AWS secret key", "{40b}", "aws_secret_access_key=%s"),
    ("AWS secret key, JSON", "{40b}", '  "SecretAccessKey": "%s",'),
    ("password, .env", "{20w}", "DB_PASSWORD=%s"),
    ("password, .env with export", "{24w}", "export POSTGRES_PASSWORD=%s"),
    ("password, ini", "{18w}", "password = %s"),
    ("password, YAML", "{22w}", "  admin_password: %s"),
    ("password, quoted YAML", "{22w}", "  admin_password: '%s'"),
    ("password, properties", "{20w}", "spring.datasource.password=%s"),
    ("password, Python", "{16w}", 'PASSWORD = "%s"'),
    ("password, annotated Python", "{16w}", '    password: str = "%s"'),
    ("password, Java", "{20w}", 'private static final String PASSWORD = "%s";'),
    ("password, Ruby", "{20w}", ":password => '%s',"),
    ("password, JSON", "{20w}", '{"db_password": "%s"}'),
    ("password, escaped JSON", "{20w}", r'body = "{\"password\": \"%s\"}"'),
    ("key, hexadecimal", "{64h}", 'secret_key = "%s"'),
    ("key, one case", "{32c}", "api_key: %s"),
    ("key, UUID", "{8h}-{4h}-{4h}-{4h}-{12h}", 'api_token = "%s"'),
    ("bearer token", "{43u}", "Authorization: Bearer %s"),
    ("bearer token, curl", "{40w}", "curl -H 'authorization: bearer %s' https://api.example.org"),
    ("password, URL", "{14w}", "DATABASE_URL=postgres://app:%s@db.internal:5432/app"),
    ("password, Redis URL", "{24w}", 'cache = "redis://:%s@10.0.0.1:6379/0"'),
    ("OpenAI key", "sk-{20w}T3BlbkFJ{20w}", 'openai.api_key = "%s"'),
    ("OpenAI project key", "sk-proj-{74u}T3BlbkFJ{74u}", "OPENAI_API_KEY=%s"),
    ("Anthropic key", "sk-ant-api03-{93u}AA", "ANTHROPIC_API_KEY=%s"),
    ("OpenRouter key", "sk-or-v1-{64h}", "call(%s)"),
    ("Hugging Face token", "hf_{34l}", 'login("%s")'),
    ("Groq key", "gsk_{52w}", "client(%s)"),
    ("Replicate token", "r8_{37w}", "REPLICATE=%s"),
    ("xAI key", "xai-{80w}", "x = %s"),
    ("Perplexity key", "pplx-{48w}", "x = %s"),
    ("SendGrid key", "SG.{22u}.{43u}", "mail.send('%s')"),
    ("Google API key", "AIza{34u}q", "?key=%s"),
    ("Google client secret", "GOCSPX-{27u}q", '"client": "%s"'),
    ("Google OAuth token", "ya29.{60u}", "curl %s"),
    ("Azure storage key", "{86b}==", "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=%s;"),
    ("Azure Service Bus key", "{43b}=", "Endpoint=sb://a/;SharedAccessKeyName=r;SharedAccessKey=%s"),
    ("Docker token", "dckr_pat_{27u}", "docker login -u me -p %s"),
    ("Discord token", "MT{22w}.{6u}.{38u}", "bot.run('%s')"),
    ("Discord webhook", "{18d}/{68u}", "https://discord.com/api/webhooks/%s"),
    ("Telegram token", "AA{33u}", "https://api.telegram.org/bot123456789:%s/getMe"),
    ("Slack token", "xoxb-{12d}-{12d}-{24w}", "slack = '%s'"),
    ("Slack webhook", "T{8B}/B{8B}/{24w}", "https://hooks.slack.com/services/%s"),
    ("GitHub token", "ghp_{36w}", "git clone https://%s@github.com/a/b"),
    ("GitHub fine-grained token", "github_pat_{22w}_{59w}", "GH=%s"),
    ("GitLab token", "glpat-{20w}", "PRIVATE-TOKEN: %s"),
    ("npm token", "npm_{36w}", "//registry.npmjs.org/:_authToken=%s"),
    ("PyPI token", "pypi-AgEIcHlwaS5vcmc{120u}", "password = %s"),
    ("RubyGems key", "rubygems_{48h}", ":rubygems: %s"),
    ("NuGet key", "oy2{43c}", "nuget push -k %s"),
    ("Stripe key", "sk_live_{24w}", "Stripe.key = '%s'"),
    ("Stripe webhook secret", "whsec_{32w}", "verify('%s')"),
    ("Shopify token", "shpat_{32h}", "x: %s"),
    ("Square token", "sq0atp-{22u}", "x: %s"),
    ("Twilio key", "SK{32h}", "x: %s"),
    ("Mailgun key", "key-{32h}", "auth('api', '%s')"),
    ("DigitalOcean token", "dop_v1_{64h}", "x: %s"),
    ("Databricks token", "dapi{32h}", "x: %s"),
    ("Vault token", "hvs.{90w}", "vault login %s"),
    ("Pulumi token", "pul-{40h}", "x: %s"),
    ("Doppler token", "dp.pt.{43w}", "x: %s"),
    ("Supabase token", "sbp_{40h}", "x: %s"),
    ("Grafana token", "glsa_{32w}_{8h}", "x: %s"),
    ("New Relic key", "NRAK-{27U}", "x: %s"),
    ("Sentry token", "sntrys_{60w}", "x: %s"),
    ("Linear key", "lin_api_{40w}", "x: %s"),
    ("Figma token", "figd_{40u}", "x: %s"),
    ("Notion token", "ntn_{46w}", "x: %s"),
    ("Airtable token", "pat{14w}.{64h}", "x: %s"),
    ("Atlassian token", "ATATT3xFfGF0{180u}", "x: %s"),
    ("Postman key", "PMAK-{24h}-{34h}", "x: %s"),
    ("Alibaba access key", "LTAI{20w}", "x: %s"),
    ("JSON web token", "eyJ{33w}.eyJ{70w}.{43u}", "token %s"),
    ("Dynatrace token", "dt0c01.{24U}.{64U}", "x: %s"),
    ("Plaid secret", "{30h}", 'plaid_secret = "%s"'),
    ("Plaid client id", "{24h}", "PLAID_CLIENT_ID=%s"),
    ("Sendinblue key", "xkeysib-{64h}-{16w}", "x: %s"),
    ("Terraform token", "{14w}.atlasv1.{67w}", 'token = "%s"'),
    ("Terraform password", "{20w}", '  administrator_login_password = "%s"'),
    ("Contentful token", "{43u}", 'const contentfulAccessToken = "%s";'),
    ("Shippo token", "shippo_live_{40h}", "Shippo(%s)"),
    ("Django's SECRET_KEY", "{50j}", "SECRET_KEY = '%s'"),
    ("Django's SECRET_KEY of a new project", "django-insecure-{50j}", 'SECRET_KEY = "%s"'),
    ("password, .netrc", "{16w}", "machine api.example.org login build password %s"),
    ("password, .pgpass", "{16w}", "db.example.org:5432:app:app:%s"),
    ("password, XML element", "{20w}", "<password>%s</password>"),
    ("password, XML attribute", "{20w}", '<add key="DbPassword" value="%s" />'),
    ("password, PHP define", "{20w}", "define('DB_PASSWORD', '%s');"),
    ("WordPress key", "{64j}", "define('AUTH_KEY', '%s');"),
    ("password, curl", "{16w}", "curl -u admin:%s https://api.example.org"),
    ("X-Api-Key header", "{32w}", "curl -H 'X-Api-Key: %s' https://api.example.org"),
    ("token, URL", "{32w}", "https://api.example.org/v1/items?access_token=%s&page=2"),
    ("environment of Docker", "{24w}", "ENV API_SECRET=%s"),
    ("private key", "{64b}\n{64b}\n{64b}", "-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----"),
)

NEAR_MISSES = (
    "return this@Outer.field",
    "scores = x@self.w",
    "attention = A@B.mT",
    "@app.route('/login')",
    "git clone git@github.com:owner/name.git",
    "npm install lodash@4.17.21",
    'background: url("icon@2x.png");',
    'password = "correct horse battery staple"',
    "password = get_password(user)",
    "token = tokenizer.eos_token_id",
    "secret_key = os.environ['SECRET_KEY']",
    "api_key: ${API_KEY}",
    "password: {{ vault.database_password }}",
    'api_key = "YOUR_API_KEY_HERE_1234"',
    "tokens = max_position_embeddings_2048",
    'digest = "{64h}"',
    "commit {40h}",
    '"integrity": "sha512-{86b}=="',
    "image: registry/app@sha256:{64h}",
    "postgres://user:password@localhost/db",
    "Authorization: Bearer <token>",
    "Basic usage of the library",
    "uuid = '{8h}-{4h}-{4h}-{4h}-{12h}'",
    "x = task_live_{24c}",
    'data = "data:image/png;base64,{60b}"',
    'next_token = "CAESBkRlZmF1bHQ="',
    '"NextToken": "{88b}"',
    'page_token: "{40w}"',
    "token = '{44s}'",
    'tokenAddress = "0x{40h}"',
    'token_id = "{60d}"',
    "USDC_TOKEN = 0x{40h}",
    "Signing-Key: {40H}",
    '"ARN": "arn:aws:secretsmanager:us-west-2:123456789012:secret:MyTestSecret-a1b2c3"',
    '"clientRequestToken": "{8h}-{4h}-{4h}-{4h}-{12h}"',
    '"token2wav_config": Qwen2_5OmniToken2WavConfig,',
    "y = W@b.cc",
    "csrf_token = '{64w}'",
    'public_key = "{43w}"',
    "credentialsId: '{8h}-{4h}-{4h}-{4h}-{12h}'",
    "machine learning login page password reset",
    "server:5432:started",
    "docker run -u 1000:1000 image",
    '<add key="PasswordFormat" value="Encrypted" />',
)


_SUFFIXES = [
    ".c",
    ".cfg",
    ".cpp",
    ".go",
    ".h",
    ".html",
    ".ini",
    ".java",
    ".js",
    ".json",
    ".kt",
    ".md",
    ".php",
    ".py",
    ".rb",
    ".rs",
    ".rst",
    ".sh",
    ".toml",
    ".ts",
    ".txt",
    ".xml",
    ".yaml",
    ".yml",
]


def drawn(template: str, generator: random.Random) -> str:
    """`template` with every `{length and alphabet}` replaced by random characters."""
    return re.sub(r"\{(\d+)(\w)\}", lambda m: "".join(generator.choices(_ALPHABETS[m[2]], k=int(m[1]))), template)


def planted(source: str, line: str, generator: random.Random) -> bytes:
    """`source` with `line` between two of its lines."""
    lines = source.splitlines()
    place = generator.randrange(len(lines) + 1)
    return "\n".join([*lines[:place], line, *lines[place:]]).encode()


def missed(sources: list[str], each: int, generator: random.Random) -> tuple[Counter[str], Counter[str]]:
    """How many of each format were planted, and how many of them are still in the redacted text."""
    number, left = Counter[str](), Counter[str]()
    for name, template, line in PLANTED:
        for _ in range(each):
            secret = drawn(template, generator)
            text = redact(planted(generator.choice(sources), line % secret, generator), REDACTIONS)[0].decode()
            number[name] += 1
            left[name] += secret in text
    return number, left


def false_alarms(sources: list[str], each: int, generator: random.Random) -> tuple[int, Counter[str]]:
    """How many near misses were planted, and which of them were changed how often."""
    changed = Counter[str]()
    for template in NEAR_MISSES:
        for _ in range(each):
            line = drawn(template, generator)
            text = redact(planted(generator.choice(sources), line, generator), REDACTIONS)[0].decode()
            changed[template] += line not in text
    return len(NEAR_MISSES) * each, +changed


def foreign() -> tuple[int, Counter[str], int, int]:
    """How many of gitleaks' cases hold a secret, how many of each rule are missed, how many hold none, how many of
    those are changed."""
    cases = [json.loads(line) for line in gzip.decompress(gitleaks_cases.CASES.read_bytes()).splitlines()]
    found = [case for case in cases if case["secrets"]]
    none = [case for case in cases if case.get("false")]
    left = Counter[str]()
    for case in found:
        text = redact(case["text"].encode(), ("secrets",))[0].decode()
        left[case["rule"]] += any(secret in text for secret in case["secrets"])
    changed = sum(bool(redact(case["text"].encode(), ("secrets",))[1]) for case in none)
    return len(found), +left, len(none), changed


def read_sources(directories: list[Path], limit: int) -> list[str]:
    """Text files of source code, up to `limit` bytes in all."""
    sources, size = [], 0
    for path in sorted(path for top in directories for path in top.rglob("*") if path.suffix in _SUFFIXES):
        if size > limit:
            break
        try:
            sources.append(path.read_text())
        except (OSError, UnicodeDecodeError):
            continue
        size += path.stat().st_size
    return sources


def speed(sources: list[str]) -> float:
    """Megabytes per second, the median of five rounds."""
    documents = [source.encode() for source in sources]
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        for document in documents:
            redact(document, REDACTIONS)
        seconds.append(time.perf_counter() - start)
    return sum(map(len, documents)) / 1e6 / statistics.median(seconds)


def print_unjudged(sources: list[str], listed: bool) -> None:
    """The replacements in `sources` themselves."""
    kinds = Counter[str]()
    for source in sources:
        for line in source.splitlines() if listed else [source]:
            text, counts = redact(line.encode(), REDACTIONS)
            kinds.update(dict(counts))
            if counts and listed:
                print(f"  {line.strip()[:100]}\n  -> {text.decode().strip()[:100]}")
    print(
        "replaced in the sources themselves:", ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()) or "nothing"
    )


def main() -> int:
    parser = options(__doc__, seed=True)
    parser.add_argument("--input", nargs="+", type=Path, default=[Path(random.__file__).parent])
    parser.add_argument("--megabytes", type=int, default=40, help="of sources (40)")
    parser.add_argument("--each", type=int, default=50, help="secrets drawn of each format (50)")
    parser.add_argument("--list", action="store_true", help="print every replacement in the sources themselves")
    parser.add_argument("--quick", action="store_true", help="1 MB and 3 of each")
    arguments = parser.parse_args()
    each, megabytes = (3, 1) if arguments.quick else (arguments.each, arguments.megabytes)
    sources = read_sources(arguments.input, megabytes * 1_000_000)
    print_header("google-re2", "publicsuffixlist")
    number, left = missed(sources, each, random.Random(arguments.seed))
    total, alarms = false_alarms(sources, each, random.Random(arguments.seed + 1))
    found = number.total() - left.total()
    print(f"recall {found / number.total():.4f} ({found} of {number.total()} of {len(PLANTED)} formats)")
    for name, count in (+left).most_common():
        print(f"  missed: {name}, {count} of {number[name]}")
    print(f"precision {found / max(1, found + alarms.total()):.4f} ({alarms.total()} of {total} near misses changed)")
    for template, count in alarms.most_common():
        print(f"  changed: {template}, {count} of {each}")
    cases, left, none, changed = foreign()
    print(f"recall of gitleaks' own cases {1 - left.total() / cases:.4f} ({cases - left.total()} of {cases})")
    for name, count in left.most_common():
        print(f"  missed: {name}, {count}")
    print(f"  of {none} cases that one rule must not find, {changed} are changed")
    print_unjudged(sources, arguments.list)
    print(f"speed {speed(sources):.0f} MB/s in one process")
    return 0


if __name__ == "__main__":
    sys.exit(main())
