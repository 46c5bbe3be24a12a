import base64
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.data.corpus.redaction import EMAIL, REDACTIONS, SECRET, redact

ALNUM = string.ascii_letters + string.digits


def drawn(length, alphabet=ALNUM, seed=3):
    """A token as a service would draw it. Made here, so that no text that looks like a secret lies in this file."""
    return "".join(random.Random(seed).choices(alphabet, k=length))


def only(text, kinds=REDACTIONS):
    data, counts = redact(text.encode(), kinds)
    return data.decode(), dict(counts)


UPPER = string.ascii_uppercase + "234567"
BODY = "\n".join(drawn(64, ALNUM + "+/", seed) for seed in range(12))
SECRETS = {
    "AWS access key": ["AKIA" + drawn(16, UPPER), "ASIA" + drawn(16, UPPER)],
    "GitHub token": ["ghp_" + drawn(36), "ghs_" + drawn(36), f"github_pat_{drawn(22)}_{drawn(59)}"],
    "GitLab token": ["glpat-" + drawn(20), "glrt-" + drawn(20, ALNUM + "_-", 5)],
    "Slack token": [f"xoxb-{drawn(12, string.digits)}-{drawn(12, string.digits)}-{drawn(24)}"],
    "Google API key": ["AIza" + drawn(34, ALNUM + "_-") + "q"],
    "Stripe key": ["sk_live_" + drawn(24), "rk_test_" + drawn(99)],
    "JSON web token": [f"eyJ{drawn(33)}.eyJ{drawn(70)}.{drawn(43, ALNUM + '-_')}"],
    "npm token": ["npm_" + drawn(36)],
    "PyPI token": ["pypi-AgE" + drawn(150, ALNUM + "-_")],
    "private key": [
        f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\\n" + BODY.replace("\n", "\\n") + "\\n-----END EC PRIVATE KEY-----",
        f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nA: b - c\n\n{BODY}\n=abcd\n-----END PGP PRIVATE KEY BLOCK-----",
    ],
}


@pytest.mark.parametrize("kind, secret", [(kind, secret) for kind, secrets in SECRETS.items() for secret in secrets])
@pytest.mark.parametrize("before, after", [("", ""), ('x = "', '"\ny = 1\n'), ("# é ", " and more"), ("a(", ")")])
def test_secrets(kind, secret, before, after):
    assert only(before + secret + after) == (before + SECRET.decode() + after, {kind: 1})
    assert only(before + secret + after, ("email",)) == (before + secret + after, {})


def test_a_webhook_keeps_its_address():
    path = f"T{drawn(8, UPPER)}/B{drawn(8, UPPER)}/{drawn(24)}"
    assert only(f"https://hooks.slack.com/services/{path} x") == (
        "https://hooks.slack.com/services/<SECRET> x",
        {"Slack webhook": 1},
    )


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + drawn(15, UPPER),
        "AKIAIOSFODNN7EXAMPLE",  # of Amazon's manuals
        "AKIA" + drawn(17, UPPER),
        "xAKIA" + drawn(16, UPPER),
        "ghp_" + drawn(35),
        "ghp_" + "x" * 36,  # as in a manual
        "ghx_" + drawn(36),
        "glpat-" + drawn(19),
        "glad-" + drawn(20),
        "xoxb-your-token",
        "AIza" + drawn(34),
        "sk_live_" + drawn(9),
        "task_live_" + drawn(24),
        "eyJ" + drawn(33),
        "npm_" + drawn(35),
        "npm_config_" + drawn(30),
        "pypi-AgE" + drawn(49),
        "if line == '-----BEGIN PRIVATE KEY-----':\n" + "    pass\n" * 20 + "if line == '-----END PRIVATE KEY-----':\n",
        f"-----BEGIN CERTIFICATE-----\n{BODY}\n-----END CERTIFICATE-----",
        f"-----BEGIN PUBLIC KEY-----\n{BODY}\n-----END PUBLIC KEY-----",
    ],
)
def test_near_misses(text):
    assert only(text) == (text, {})


RANDOM = drawn(20)


@pytest.mark.parametrize(
    "before, after",
    [
        ('password = "', '"'),
        ("PASSWORD='", "'"),
        ('"db_password": "', '",'),
        ("secret_key := '", "'"),
        ("config['api_key'] = '", "'"),
        ('apiKey: "', '"'),
        ("auth-token=>'", "'"),
        ('AWS_SECRET_ACCESS_KEY = "', '"'),
        ("password = ", ""),
        ("  db_password: ", "  # rotated in May\r\nnext: 1"),
        ("export API_KEY=", "\n"),
        ("secret_key := ", "\n"),
        ('password: str = "', '"'),
        ('{\\"password\\": \\"', '\\"}'),
    ],
)
def test_assigned_passwords(before, after):
    assert only(before + RANDOM + after) == (before + "<SECRET>" + after, {"password": 1})
    digits = drawn(32, "0123456789abcdef")
    assert only(before + digits + after) == (before + "<SECRET>" + after, {"password": 1})


@pytest.mark.parametrize(
    "text",
    [
        'password = "hunter2"',
        'password = "correct horse battery staple"',
        'token = "csrfmiddlewaretoken"',
        'token = "OAuth2BearerToken12"',
        'secret = "my_secret_value_number_12"',
        'password_url = "https://example.org/Login/v2/password"',
        'api_key = "YOUR_API_KEY_HERE_1234"',
        'secret = "0000000000000000000000000000000000000000"',
        f'digest = "{drawn(32, "0123456789abcdef")}"',
        f'name = "{RANDOM}"',
        f"password = {RANDOM}()",
        f"password = other or {RANDOM}",
        "password: Base64EncodedUtf8String",
        f'passwords = ["{RANDOM}"]',
    ],
)
def test_what_is_no_password(text):
    assert only(text) == (text, {})


@pytest.mark.parametrize(
    "address", ["a@b.de", "first.last+tag@mail.example.co.uk", "x_1%y@sub-domain.example.org", "A" * 64 + "@b.com"]
)
@pytest.mark.parametrize(
    "before, after", [("", ""), ("<", ">"), ("mail ", "."), ("# é ", ", b"), ('"', '"'), ("..", "")]
)
def test_emails(address, before, after):
    assert only(before + address + after) == (before + "<EMAIL>" + after, {"email": 1})
    assert only(before + address + after, ("secrets",))[1] == {}


@pytest.mark.parametrize(
    "text",
    [
        "@app.route('/')",
        "    @functools.cache",
        "x = a@b.T",
        "y = weights@inputs.reshape(3, 4)",
        "y = a@b.shape[0]",
        "git clone git@github.com:owner/name.git",
        "user@localhost",
        "lodash@4.17.21",
        "icon@2x.png",
        "import x from '@scope/name.js'",
        "a@b@c.de@f",
        "return this@Outer.name",
        "this@MainActivity.apply",
        "y = x@self.id",
        "A@B.mT",
        "scores = q@k.T",
        "https://user@example.org/path",
        "loader@self.io",
        "/** @param x.y */",
        'names = ("hmac-sha2-256-etm@openssh.com", "statvfs@openssh.com")',
        'names = ("aes256-cbc@ssh.com", "rijndael-cbc@lysator.liu.se")',
        "ssh -T git@github.com",
        'printf("%s@host.example.org", name)',
        "scp build.tar.gz me@host.example.org:/srv/",
        "fetch me@host.example.org:project/name",
        "https://lists.example.org/git/20150811100527.GW14466@mail.example.org/",
        "Message-ID: <20150811100527.GW14466@mail.example.org>",
        "http://name:${secret}@host.example.org",
        "@" * 50,
    ],
)
def test_what_is_no_email(text):
    assert only(text) == (text, {})


@pytest.mark.parametrize(
    "before, secret, after",
    [
        ("Authorization: Bearer ", drawn(40), "\n"),
        ('{"authorization": "bearer ', drawn(32, "0123456789abcdef"), '"}'),
        ("Authorization: Basic ", base64.b64encode(b"service:Gk3xW9qLz").decode(), ""),
        ("postgres://app:", "Gk3-xW9qLz", "@db.example.org:5432/app"),
        ("redis://:", drawn(24), "@10.0.0.1"),
    ],
)
def test_credentials_of_headers_and_urls(before, secret, after):
    assert only(before + secret + after) == (before + "<SECRET>" + after, {"credential": 1})


@pytest.mark.parametrize(
    "text",
    [
        "the bearer of bad news is here already",
        "Bearer YOUR_ACCESS_TOKEN_GOES_HERE",
        "Basic authentication",
        "Basic QWxsIG9mIHRoaXMgaXMgdGV4dA==",
        "postgres://user:password@localhost/db",
        "ftp://user:my-password@localhost",
        "http://host:8080/path@2x.png",
        "https://user:${PASSWORD}@host",
    ],
)
def test_what_is_no_credential(text):
    assert only(text) == (text, {})


def test_addresses_at_reserved_domains_may_stay():
    text = "a@b.de c@example.com d@mail.example.org e@myexample.com f@example.dev"
    assert only(text, ("real-email",)) == ("<EMAIL> c@example.com d@mail.example.org <EMAIL> <EMAIL>", {"email": 3})
    assert only(text, ("email",))[1] == {"email": 5}


def test_the_letter_of_an_escape_is_not_part_of_an_address():
    for escape in ("\\n", "\\t", "\\u003c"):
        assert only(f'"{escape}me@b.de"')[0] == f'"{escape}<EMAIL>"'


FIRST, LAST = "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"


def test_a_key_without_its_end():
    assert only(f"x {FIRST}\n{BODY}") == ("x <SECRET>", {"private key": 1})
    for after in ("\n\nAnd then the next part.\n", '"""\nname = "some text"\n', "\n# Next\n", "\nEnd of this page\n"):
        assert only(f"x {FIRST}\n{BODY}{after}") == (f"x <SECRET>{after}", {"private key": 1})


@pytest.mark.parametrize(
    "joined",
    ["\\n", "\r\n", "\n    ", '\\n" +\n  "', "\\n'\n  '", "\n# ", "\\n\\\n", '",\n  "', "\\\\n"],
)
def test_keys_in_strings(joined):
    for middle in (BODY, f"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,{'0A' * 16}\n\n{BODY}"):
        key = f"{FIRST}\n{middle}\n{LAST}"
        if middle == BODY or joined == "\n    ":
            assert only(f"k = '{key}'".replace("\n", joined)) == ("k = '<SECRET>'", {"private key": 1})


PATH = "/usr/local/share/certificates/authorities/internal2/bundles/current"


@pytest.mark.parametrize(
    "text",
    [
        f"The first line is {FIRST}, and the last {LAST}; look into {PATH}.",
        f'KINDS = {{"{FIRST}": "{drawn(50)}"}}',
        f"{FIRST}\n{PATH}\n{LAST}",
        f"{FIRST}\n\nand was not changed. Its digest is\n{drawn(64, '0123456789abcdef')}\n",
        f"{FIRST}\nMIIEvQIBADANBg...\n{LAST}",
        f'return "{FIRST}" + base64EncodedPrivateKeyOfThisUserAndThatServer + "{LAST}"',
        f"{FIRST}\n{{{{ vault.private_key_of_the_server }}}}\n{LAST}",
        f"if (text.startsWith('{FIRST}')) {{ return parsePrivateKey(text); }}",
    ],
)
def test_lines_of_keys_without_a_key(text):
    assert only(text, ("secrets",)) == (text, {})


def test_counts():
    text = f"a@b.de c@d.de ghp_{drawn(36)} x@y.com"
    assert redact(text.encode(), REDACTIONS) == (
        b"<EMAIL> <EMAIL> <SECRET> <EMAIL>",
        (("GitHub token", 1), ("email", 3)),
    )


def test_what_lies_in_a_secret_is_replaced_once():
    assert only(f'token = "ghp_{drawn(36)}"') == ('token = "<SECRET>"', {"GitHub token": 1})


def test_text_without_hits_is_the_same_object():
    data = b"def function(argument):\n    return argument\n"
    assert redact(data, REDACTIONS)[0] is data and redact(b"a@b.de", ()) == (b"a@b.de", ())


PLACEHOLDERS = {secret: SECRET.decode() for secrets in SECRETS.values() for secret in secrets}
PLACEHOLDERS["a@b.de"] = EMAIL.decode()


@given(st.lists(st.sampled_from([*PLACEHOLDERS, "é", "x", "=", ":", "@", ".", "x.y"])), st.sampled_from(' \n",'))
def test_many_in_one_text(pieces, between):
    expected = between.join(PLACEHOLDERS.get(piece, piece) for piece in pieces)
    assert only(between.join(pieces))[0] == expected


@pytest.mark.parametrize(
    "piece", ["a.", "a@", "a@b.", "a-", "-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaa.", "=\t", "x" * 50, "xoxb-a-", "gh"]
)
def test_hostile_text_takes_linear_time(piece):
    # Backtracking over half a megabyte would not end within a day: that this returns is the whole check.
    redact((piece * (500_000 // len(piece))).encode(), REDACTIONS)


@pytest.mark.parametrize("escape", [rb"\n", rb"\r", rb"\t"])
def test_a_secret_after_an_escape(escape):
    token = b"AKIAQ3EGUR7K5PXYZ2WN"
    assert redact(b'x = "a' + escape + token + b'"', ("secrets",))[0] == b'x = "a' + escape + b'<SECRET>"'
    assert redact(escape[1:] + token, ("secrets",))[1] == ()
