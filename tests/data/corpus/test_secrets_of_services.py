"""Secrets by gitleaks' rules, by files' own formats, and names whose values everybody may see."""

import base64
import random
import string

import pytest

from ms_codegeex.data.corpus.redaction import redact

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
DJANGO = string.ascii_lowercase + string.digits + "!@#$%^&*(-_=+)"


def drawn(length, alphabet=ALNUM, seed=5):
    return "".join(random.Random(seed).choices(alphabet, k=length))


def only(text):
    data, counts = redact(text.encode(), ("secrets",))
    return data.decode(), [kind for kind, _ in counts]


LOGIN = base64.b64encode(b"builder:Gk3xW9qLz").decode()


@pytest.mark.parametrize(
    "kind, before, secret, after",
    [
        ("dynatrace api token", "x: ", f"dt0c01.{drawn(24)}.{drawn(64)}", ""),
        ("sendinblue api token", "send('", f"xkeysib-{drawn(64, HEX)}-{drawn(16)}", "')"),
        ("shippo api token", "", "shippo_live_" + drawn(40, HEX), "\n"),
        ("hashicorp tf api token", 'token = "', f"{drawn(14)}.atlasv1.{drawn(65)}", '"'),
        ("maxmind license key", "(", f"{drawn(6)}_{drawn(29)}_mmk", ")"),
        ("azure ad client secret", "'", f"{drawn(3)}8Q~{drawn(33)}", "'"),
        ("plaid secret key", 'plaid_secret = "', drawn(30, HEX), '"'),
        ("contentful delivery api token", "contentfulAccessToken: '", drawn(43), "',"),
        ("cloudflare api key", "my_cloudflare_key=", drawn(40), ""),
        ("password", "SECRET_KEY = '", drawn(50, DJANGO), "'"),
        ("password", 'SECRET_KEY = "', "django-insecure-" + drawn(50, DJANGO), '"'),
        ("password", "define( 'AUTH_KEY', '", drawn(64, DJANGO), "' );"),
        ("password", "define('DB_PASSWORD', '", drawn(20), "');"),
        ("password", "<password>", drawn(20), "</password>"),
        ("password", '<add key="DbPassword" value="', drawn(20), '" />'),
        ("password", "machine a.example.org login me password ", drawn(12), "\n"),
        ("password", "db.example.org:5432:app:me:", drawn(14), "\n"),
        ("credential", '{"auths": {"https://index.docker.io/v1/": {"auth": "', LOGIN, '"}}}'),
        ("credential", "//registry.example.org/:_auth=", LOGIN, "\n"),
        ("credential", "curl -u me:", drawn(14), " https://example.org"),
        ("password", "curl -H 'X-Api-Key: ", drawn(32), "' https://example.org"),
        ("password", "https://example.org/items?access_token=", drawn(32), "&page=2"),
    ],
)
def test_found(kind, before, secret, after):
    assert only(before + secret + after) == (f"{before}<SECRET>{after}", [kind])


@pytest.mark.parametrize(
    "text",
    [
        'next_token = "CAESBkRlZmF1bHQ="',
        f'"NextToken": "{drawn(88)}"',
        f"pageToken: '{drawn(40)}'",
        f"csrf_token = '{drawn(64)}'",
        f'"credentialsId": "{drawn(8, HEX)}-{drawn(4, HEX)}-{drawn(4, HEX)}-{drawn(4, HEX)}-{drawn(12, HEX)}"',
        f"token = '{drawn(44, ALNUM.translate(str.maketrans('', '', '0OIl')))}'",  # an address on Solana
        f"USDC_TOKEN = 0x{drawn(40, HEX)}",
        f'token_id = "{drawn(40, HEX)}"',
        f"public_key = '{drawn(43)}'",
        '"ARN": "arn:aws:secretsmanager:us-west-2:123456789012:secret:MyTestSecret-a1b2c3"',
        '"clientRequestToken": "1d2129a1-3d38-460a-9756-e5b91fddb951"',
        '"token2wav_config": Qwen2_5OmniToken2WavConfig,',
        'machine host.domain.com login log password "pass" account acct',
        "return s.ReadUint16LengthPrefixed(out)",
        "machine learning login page password reset",
        "db.example.org:5432:app:started",
        "docker run -u 1000:1000 image",
        '<add key="PasswordFormat" value="Encrypted" />',
        f"x = '{drawn(30, HEX)}'  # nothing of plaid's",
        "plaid = plaid_client_of_the_test_suite",
        "AIzaSyabcdefghijklmnopqrstuvwxyz1234567",  # of gitleaks' list of known values
        "SECRET_KEY = 'the secret key of this site comes from the environment'",
        "api_key = getAccessTokenForUserOfThisName",
    ],
)
def test_left(text):
    assert only(text) == (text, [])


def test_a_product_of_matrices_is_no_address():
    for text in ("y = W@b.cc", "Q@k.me"):
        assert redact(text.encode(), ("email",)) == (text.encode(), ())
    assert redact(b"w@b.cc", ("email",))[0] == b"<EMAIL>"
