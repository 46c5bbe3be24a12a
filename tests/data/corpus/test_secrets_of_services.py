"""Secrets by gitleaks' rules, by files' own formats, and names whose values everybody may see."""

import base64
import random
import re
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


UUID = "{8h}-{4h}-{4h}-{4h}-{12h}"
ALPHABETS = {"w": ALNUM, "h": HEX, "u": ALNUM + "-_", "c": string.ascii_lowercase + string.digits}
ALPHABETS |= {"U": string.ascii_uppercase + string.digits, "b": ALNUM + "+/"}
ALPHABETS |= {"B": string.ascii_uppercase + "234567", "l": string.ascii_letters}
# As issuers and the detectors of trufflehog describe them.
FORMS = [
    *("aio_{28w}", "apify_api_{36w}", "AKCp{69w}", "cmVmdGtu{56w}", "cio{32w}", "packagist_uut_{68h}", "sqp_{40h}"),
    *("bkua_{40c}", "CCIPAT_{22w}_{40h}", "BBDC-{44b}", "figu_{40u}", "tfp_{44w}", "rdme_{70c}", "slk_{64h}"),
    *("CFPAT-{43u}", f"waka_{UUID}", "nvapi-{64u}", "lsv2_pt_{32h}_{10h}", f"sk-lf-{UUID}", "pcsk_{6w}_{63w}"),
    *("tvly-dev-{32w}", "csk-{48c}", "fw_{24w}", "tgp_v1_{43u}", "pa-{43u}", "e2b_{40h}", "sk_{48h}", "AKLT{43u}"),
    *("AQVN{36u}", "AVNS_{19u}", "cfut_{40w}{8h}", "nfp_{36w}", "vcp_{32w}", "ddp_{36w}", "fm2_{200b}"),
    *("tskey-auth-{12w}-{24w}", "HRKU-AA{58u}", "pnu_{36w}", "5AEP861{90w}", "3MVG9{85w}", f"amzn.mws.{UUID}"),
    *("SWMTKN-1-{50c}-{25c}", "ops_eyJ{300w}", "sk_test_{40h}", "FLWSECK-{32c}-X", f"access-production-{UUID}"),
    *(f"pat-na1-{UUID}", "EAAA{60u}", "EZAK{54w}", "duffel_live_{43u}", "ramp_sec_{48w}", "sk.eyJ1{60w}.{22w}"),
    *("re_{8w}_{24w}", "xsmtpsib-{64h}-{16w}", "NRII-{32u}", "phx_{43w}", f"sdk-{UUID}", "rootly_{64h}", "NRBR-{19h}"),
    *("dt0s01.{8U}.{64U}", "wandb_v1_{80w}", "ghp_{36w}", "glpat-{20u}", "AKIA{16B}", "hf_{34l}", "xai-{80w}"),
]


def made(form, seed):
    generator = random.Random(f"{form} {seed}")
    return re.sub(r"\{(\d+)(\w)\}", lambda part: "".join(generator.choices(ALPHABETS[part[2]], k=int(part[1]))), form)


def test_forms_of_issuers():
    """At most one of twenty drawn tokens of a form is taken for a word; none is found inside a longer word."""
    assert len(FORMS) >= 55
    for form in FORMS:
        texts = [f"use(\n  '{made(form, seed)}'\n)\n" for seed in range(20)]
        assert sum(bool(only(text)[1]) for text in texts) >= 19, form


NEAR = ("aio_{27w}", "apify_api_{30w}", "sqp_{39h}", "bkua_{36c}", "figu_{12u}", f"wakati_{UUID}", "nvapi_{64u}")
NEAR += ("lsv2_pt_{30h}_{10h}", "pcsk_{6w}", "re_{8w}", "e2b_{38h}", "fw_{20w}", "pa-{20u}", "sk_{40h}", f"apis-{UUID}")
NEAR += ("nfp_{20w}", "vcp_{8w}", "EAAA{20u}", "EZAK{20w}", f"pat-{UUID}", "rootly_{20h}", "phx_{12w}", f"id-{UUID}")
NEAR += ("class_re_compile_{8c}", "csk-{20c}", "SWMTKN-1-{8c}", "sha256-{43b}=", "task_{48h}x", "{40h}", "v1.{12h}")


@pytest.mark.parametrize("form", NEAR)
def test_what_is_not_quite_such_a_form(form):
    for seed in range(5):
        text = f"use(\n  '{made(form, seed)}'\n)\n"
        assert only(text) == (text, [])


CONTEXTS = ('password = "%s"', "DB_PASSWORD=%s\n", "  db_pass: %s\n", '{ "clientSecret" : "%s" }', "--password %s ")
CONTEXTS += ("$config['db_pass'] = '%s';", 'String password = new String("%s");', "ENV API_TOKEN %s\n")
CONTEXTS += ('let token: &str = "%s";', "encryption_key: !!str '%s'\n", "setenv SECRET_TOKEN %s\n")
CONTEXTS += ('#define WIFI_PASSWORD "%s"',)
CONTEXTS += ('client_secret: "%s"\n', "Password=%s;Database=x", 'set("api_key", "%s")', "token=%s&x=1")


def test_random_values_are_found_wherever_they_are_assigned():
    generator, missed, drawn_values = random.Random(4), [], 0
    for alphabet, least in ((ALNUM, 12), (string.ascii_letters, 12), (ALPHABETS["c"], 14), (ALPHABETS["u"], 16)):
        for context in CONTEXTS:
            for length in range(least, 48, 4):
                value, drawn_values = "".join(generator.choices(alphabet, k=length)), drawn_values + 1
                missed += [(context, value)] if value in only(context % value)[0] else []
    assert len(missed) <= 0.05 * drawn_values


@pytest.mark.parametrize(
    "text",
    [
        'PASSWORD_RESET_TEMPLATE_V2 = "resetPasswordTemplate2Html"',
        'secret_name = "kubernetesServiceAccountTokenV1"',
        'api_key = os.environ["API_KEY_2"]',
        "password: ${VAULT_PASSWORD_2}",
        'password = getpass("Password 1: ")',
        'password = "changeme12345"',
        'password = "<password>"',
        "token = cursor.nextPageToken2Value",
        'secret = "c2VjcmV0IGlzIHNlY3VyZQ=="',  # secret is secure
        "  password: dmFsdWUtMg0K",  # value-2
        'encryption_key = "000102030405060708090A0B0C0D0E0F"',
        f"# NIST, AES-128 in CBC\nsecret_key = {drawn(32, HEX)}\n",
        f'Ctrl.digest = SHA256\nhexsecret = "{drawn(24, HEX)}"',
        'password_hash = "pbkdf2_sha256$260000$' + drawn(22) + '"',
        'password = "$argon2id$v=19$m=65536,t=3,p=4$' + drawn(22) + '"',
        "http://user:pass;word@host/file",
        "https://home-user:home-pass@example.org",
        "ftp://u:p%40ssword@example.org",
        "http://host:p4ssw0rd@example.org",
        "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",  # RFC 7617
        '"authorPHID": "PHID-USER-7hh4j4mpuwlnzvkapvse"',
        f'("sha1", "{drawn(40, HEX)}")',
    ],
)
def test_words_placeholders_and_vectors_stay(text):
    assert only(text) == (text, [])
