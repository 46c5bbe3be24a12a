"""What is replaced in texts, and what is not: addresses, passwords, tokens, keys."""

import base64
import random
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.extras.corpus.redaction import EMAIL, REDACTIONS, SECRET, redact

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


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


RANDOM = drawn(20)


ASSIGNED = ('password = "%s"', "PASSWORD='%s'", '"db_password": "%s",', "secret_key := '%s'", "secret_key := %s\n")
ASSIGNED += ('apiKey: "%s"', "auth-token=>'%s'", 'AWS_SECRET_ACCESS_KEY = "%s"', "password = %s")
ASSIGNED += ("config['api_key'] = '%s'", "  db_password: %s  # rotated in May\r\nnext: 1", "export API_KEY=%s\n")
ASSIGNED += ('password: str = "%s"', r"{\"password\": \"%s\"}")


@pytest.mark.parametrize("value", [RANDOM, drawn(32, HEX)])
@pytest.mark.parametrize("context", ASSIGNED)
def test_assigned_passwords(context, value):
    assert only(context % value) == (context % "<SECRET>", {"password": 1})


ADDRESSES = ["J.Smith@Acme-Corp.Com", "info@müller-bau.de", "a@b.de", "first.last+tag@mail.example.co.uk"]
ADDRESSES += ["a@math.uni.waw.pl", "x_1%y@sub-domain.example.org", "A" * 64 + "@b.com"]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("around", ["%s", "<%s>", "mail %s.", "# é %s, b", '"%s"', "..%s", "E<lt>%sE<gt>"])
def test_emails(address, around):
    assert only(around % address) == (around % "<EMAIL>", {"email": 1})
    assert only(around % address, ("secrets",))[1] == {}


@pytest.mark.parametrize(
    "before, secret, after",
    [
        ("Authorization: Bearer ", drawn(40), "\n"),
        ('{"authorization": "bearer ', drawn(32, HEX), '"}'),
        ("Authorization: Basic ", base64.b64encode(b"service:Gk3xW9qLz").decode(), ""),
        ("postgres://app:", "Gk3-xW9qLz", "@db.example.org:5432/app"),
        ("redis://:", drawn(24), "@10.0.0.1"),
    ],
)
def test_credentials_of_headers_and_urls(before, secret, after):
    assert only(before + secret + after) == (before + "<SECRET>" + after, {"credential": 1})


def test_what_may_be_a_file_is_an_address_in_brackets():
    assert only("see a@b.rs, <a@b.rs>", ("email",)) == ("see a@b.rs, <<EMAIL>>", {"email": 1})


def test_addresses_at_reserved_domains_may_stay():
    text = "a@b.de c@Example.com d@mail.example.org e@myexample.com f@example.dev"
    assert only(text, ("real-email",)) == ("<EMAIL> c@Example.com d@mail.example.org <EMAIL> <EMAIL>", {"email": 3})
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
    "joined", ["\\n", "\r\n", "\n    ", '\\n" +\n  "', "\\n'\n  '", "\n# ", "\\n\\\n", '",\n  "', "\\\\n"]
)
def test_keys_in_strings(joined):
    for middle in (BODY, f"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,{'0A' * 16}\n\n{BODY}"):
        key = f"{FIRST}\n{middle}\n{LAST}"
        if middle == BODY or joined == "\n    ":
            assert only(f"k = '{key}'".replace("\n", joined)) == ("k = '<SECRET>'", {"private key": 1})


PATH = "/usr/local/share/certificates/authorities/internal2/bundles/current"


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


DJANGO = string.ascii_lowercase + string.digits + "!@#$%^&*(-_=+)"


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
        ("password", "define( 'AUTH_KEY',         '", drawn(64, DJANGO), "' );"),
        ("password", 'RESEND_API_KEY = "', drawn(32), '"'),
        ("password", 'license_key = "', "-".join(drawn(5, UPPER, seed) for seed in range(5)), '"'),
        ("password", "define('DB_PASSWORD', '", drawn(20), "');"),
        ("password", "<password>", drawn(20), "</password>"),
        ("password", '<Pass encoding="base64">', drawn(20), "</Pass>"),
        ("password", '<add key="DbPassword" value="', drawn(20), '" />'),
        ("password", "machine a.example.org login me password ", drawn(12), "\n"),
        ("password", "db.example.org:5432:app:me:", drawn(14), "\n"),
        ("credential", '{"auths": {"https://index.docker.io/v1/": {"auth": "', LOGIN, '"}}}'),
        ("credential", "//registry.example.org/:_auth=", LOGIN.rstrip("="), "\n"),
        ("credential", "curl -u me:", drawn(14), " https://example.org"),
        ("password", "curl -H 'X-Api-Key: ", drawn(32), "' https://example.org"),
        ("password", "https://example.org/items?access_token=", drawn(32), "&page=2"),
        ("credential", "git+https://", drawn(40, HEX), "@example.org/a.git"),
        ("credential", "https://a.example.org/b?sp=r&sig=", drawn(43) + "%3D", "&x=1"),
        ("credential", '{"Authorization": "Token ', drawn(40, HEX), '"}'),
        ("private key", '{"kty":"EC","x":"a","d":"', drawn(43), '"}'),
        ("private key", "Private-Lines: 2\n", f"{drawn(64)}\n{drawn(40)}", "\nPrivate-MAC: 12\n"),
    ],
)
def test_secrets_of_services_and_files(kind, before, secret, after):
    assert only(before + secret + after, ("secrets",)) == (f"{before}<SECRET>{after}", {kind: 1})


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
    *("xoxe.xoxp-1-{160w}", "1//0{60u}", "AQ.Ab{48u}", "rpa_{40U}", "jina_{60u}", "sb_secret_{31u}", "rnd_{28w}"),
    *("napi_{64c}", "vercel_blob_rw_{16w}_{32w}", "fc-{32h}", f"ctx7sk-{UUID}", "sk-None-{48w}", "lin_oauth_{64h}"),
    *("1000.{32h}.{32h}", "mdb_sa_sk_{40u}", "sl.u.{135u}", "{32h}-us12"),
    *(f"open.feishu.cn/open-apis/bot/v2/hook/{UUID}", "dt0s01.{8U}.{64U}", "wandb_v1_{80w}", "ghp_{36w}"),
    *("glpat-{20u}", "AKIA{16B}", "hf_{34l}", "xai-{80w}"),
]


def made(form, seed):
    generator = random.Random(f"{form} {seed}")
    return re.sub(r"\{(\d+)(\w)\}", lambda part: "".join(generator.choices(ALPHABETS[part[2]], k=int(part[1]))), form)


def test_forms_of_issuers():
    """At most one of twenty drawn tokens of a form is taken for a word; none is found inside a longer word."""
    assert len(FORMS) >= 55
    for form in FORMS:
        texts = [f"use(\n  '{made(form, seed)}'\n)\n" for seed in range(20)]
        assert sum(bool(only(text, ("secrets",))[1]) for text in texts) >= 19, form


CONTEXTS = ('password = "%s"', "DB_PASSWORD=%s\n", "  db_pass: %s\n", '{ "clientSecret" : "%s" }', "--password %s ")
CONTEXTS += ("$config['db_pass'] = '%s';", 'String password = new String("%s");', "ENV API_TOKEN %s\n")
CONTEXTS += ('let token: &str = "%s";', "encryption_key: !!str '%s'\n", "setenv SECRET_TOKEN %s\n")
CONTEXTS += ('#define WIFI_PASSWORD "%s"', 'client_secret: "%s"\n', "Password=%s;Database=x", 'set("api_key", "%s")')
CONTEXTS += ("token=%s&x=1", 'const SECRET: &\'static str = "%s";', 'let pass = String::from("%s");')
CONTEXTS += ('char password[] = "%s";', "psk = '%s'", 'Dim pwd As String = "%s"', 'api_key <- "%s"')
CONTEXTS += ('process.env.TOKEN || "%s";', "MAIL_PW=%s\n", "SECRET = b'%s'", 'ds.setPassword("%s");')
CONTEXTS += ("  storePassword '%s'\n", "WITH PASSWORD '%s';", 'IDENTIFIED BY "%s"', '{secret, "%s"}')
CONTEXTS += ('NSString *kApiKey = @"%s";', "- name: DB_PASSWORD\n  value: %s\n", '{"name": "TOKEN", "value": "%s"}')
CONTEXTS += ("<key>ApiSecret</key>\n<string>%s</string>", '<string name="api_key">%s</string>', "run -e TOKEN=%s x")
CONTEXTS += ("{user: ops, password: %s}", "requirepass %s\n", "${TOKEN:-%s}", 'option("--token", default="%s")')
CONTEXTS += ('smtp.login("ops", "%s")', 'connect(host, "app", "%s")', "sshpass -p %s ssh x")
CONTEXTS += ("docker login -u ci -p %s x", 'jwt.sign(payload, "%s")', 'api_key                 = "%s"')
CONTEXTS += ("app.secret.key = '%s'", '"api-key" to "%s"')


def test_random_values_are_found_wherever_they_are_assigned():
    generator, missed, drawn_values = random.Random(4), [], 0
    for alphabet, least in ((ALNUM, 12), (string.ascii_letters, 12), (ALPHABETS["c"], 14), (ALPHABETS["u"], 16)):
        for context in CONTEXTS:
            for length in range(least, 48, 4):
                value, drawn_values = "".join(generator.choices(alphabet, k=length)), drawn_values + 1
                missed += [(context, value)] if value in only(context % value, ("secrets",))[0] else []
    assert len(missed) <= 0.05 * drawn_values


STAY = [  # what is not found
    # tokens of another form
    "AKIA" + drawn(15, UPPER),
    "AKIAIOSFODNN7EXAMPLE",  # of Amazon's manuals
    *("AKIA" + drawn(17, UPPER), "xAKIA" + drawn(16, UPPER), "ghp_" + drawn(35)),
    "ghp_" + "x" * 36,  # as in a manual
    *("ghx_" + drawn(36), "glpat-" + drawn(19), "glad-" + drawn(20), "xoxb-your-token", "AIza" + drawn(34)),
    *("sk_live_" + drawn(9), "task_live_" + drawn(24), "eyJ" + drawn(33), "npm_" + drawn(35)),
    *("npm_config_" + drawn(30), "pypi-AgE" + drawn(49)),
    "if line == '-----BEGIN PRIVATE KEY-----':\n" + "    pass\n" * 20 + "if line == '-----END PRIVATE KEY-----':\n",
    f"-----BEGIN CERTIFICATE-----\n{BODY}\n-----END CERTIFICATE-----",
    f"-----BEGIN PUBLIC KEY-----\n{BODY}\n-----END PUBLIC KEY-----",
    # passwords
    *('password = "hunter2"', 'password = "correct horse battery staple"', 'token = "csrfmiddlewaretoken"'),
    *('token = "OAuth2BearerToken12"', 'secret = "my_secret_value_number_12"'),
    *('password_url = "https://example.org/Login/v2/password"', 'api_key = "YOUR_API_KEY_HERE_1234"'),
    *('secret = "0000000000000000000000000000000000000000"', f'digest = "{drawn(32, HEX)}"'),
    *(f'name = "{RANDOM}"', f"password = {RANDOM}()", f"password = other or {RANDOM}"),
    *("password: Base64EncodedUtf8String", f'passwords = ["{RANDOM}"]'),
    'secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"',  # RFC 6238
    '"access_token": "2YotnFZFEjr1zCsicMWpAA"',  # RFC 6749
    f"eyJ{drawn(33)}.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6I{drawn(40)}.{drawn(43)}",  # of the subject 1234567890
    '"password": "5f4dcc3b5aa765d61d8327deb882cf99"',  # of the word password
    *(f"ALTER ROLE a WITH PASSWORD 'md5{drawn(32, HEX)}'", 'publicKeyToken="b77a5c561934e089"'),
    *(f"{FIRST}\n{drawn(64)}\n{drawn(40)}...\n{LAST}", 'tokenizer = Tokenizer("Qwen/Qwen3-8B-Instruct")'),
    *('option("--tokenizer", default="Qwen/Qwen3-8B-Instruct")', 'ENCRYPTION_KEY_MD5 = "dnF5x6K/8ZZRzpfSlMMM+w=="'),
    *('token("IDENT_WITH_DIGITS_123")', f"https://{drawn(32, HEX)}@o12345.ingest.sentry.io/67890"),
    # addresses
    *("@app.route('/')", "    @functools.cache", "x = a@b.T", "y = weights@inputs.reshape(3, 4)"),
    *("y = a@b.shape[0]", "git clone git@github.com:owner/name.git", "user@localhost", "lodash@4.17.21"),
    *("icon@2x.png", "import x from '@scope/name.js'", "a@b@c.de@f", "return this@Outer.name"),
    *("this@MainActivity.apply", "y = x@self.id", "A@B.mT", "scores = q@k.T", "https://user@example.org/path"),
    *("loader@self.io", "/** @param x.y */"),
    'names = ("hmac-sha2-256-etm@openssh.com", "statvfs@openssh.com")',
    'names = ("aes256-cbc@ssh.com", "rijndael-cbc@lysator.liu.se")',
    *("ssh -T git@github.com", 'printf("%s@host.example.org", name)', "scp build.tar.gz me@host.example.org:/srv/"),
    "fetch me@host.example.org:project/name",
    "https://lists.example.org/git/20150811100527.GW14466@mail.example.org/",
    "Message-ID: <20150811100527.GW14466@mail.example.org>",
    "References: <GW14466@mail.example.org>\n <GW14467@mail.example.org>",
    'x <- object@meta.data$count; object@project.name <- "x"',
    'depends_on("hdf5@1.10.7.in"), "none@openssh.com", "kexguess2@matt.ucc.asn.au", xs@Foo.Me',
    *("http://name:${secret}@host.example.org", "@" * 50),
    # credentials
    *("the bearer of bad news is here already", "Bearer YOUR_ACCESS_TOKEN_GOES_HERE", "Basic authentication"),
    *("Basic QWxsIG9mIHRoaXMgaXMgdGV4dA==", "postgres://user:password@localhost/db"),
    *("ftp://user:my-password@localhost", "http://host:8080/path@2x.png", "https://user:${PASSWORD}@host"),
    # private keys
    f"The first line is {FIRST}, and the last {LAST}; look into {PATH}.",
    *(f'KINDS = {{"{FIRST}": "{drawn(50)}"}}', f"{FIRST}\n{PATH}\n{LAST}"),
    f"{FIRST}\n\nand was not changed. Its digest is\n{drawn(64, '0123456789abcdef')}\n",
    f"{FIRST}\nMIIEvQIBADANBg...\n{LAST}",
    f'return "{FIRST}" + base64EncodedPrivateKeyOfThisUserAndThatServer + "{LAST}"',
    f"{FIRST}\n{{{{ vault.private_key_of_the_server }}}}\n{LAST}",
    f"if (text.startsWith('{FIRST}')) {{ return parsePrivateKey(text); }}",
    # services
    *('next_token = "CAESBkRlZmF1bHQ="', f'"NextToken": "{drawn(88)}"', f"pageToken: '{drawn(40)}'"),
    f"csrf_token = '{drawn(64)}'",
    f'"credentialsId": "{drawn(8, HEX)}-{drawn(4, HEX)}-{drawn(4, HEX)}-{drawn(4, HEX)}-{drawn(12, HEX)}"',
    f"token = '{drawn(44, ALNUM.translate(str.maketrans('', '', '0OIl')))}'",  # an address on Solana
    *(f"USDC_TOKEN = 0x{drawn(40, HEX)}", f'token_id = "{drawn(40, HEX)}"', f"public_key = '{drawn(43)}'"),
    '"ARN": "arn:aws:secretsmanager:us-west-2:123456789012:secret:MyTestSecret-a1b2c3"',
    '"clientRequestToken": "1d2129a1-3d38-460a-9756-e5b91fddb951"',
    '"token2wav_config": Qwen2_5OmniToken2WavConfig,',
    'machine host.domain.com login log password "pass" account acct',
    *("return s.ReadUint16LengthPrefixed(out)", "machine learning login page password reset"),
    *("db.example.org:5432:app:started", "docker run -u 1000:1000 image"),
    '<add key="PasswordFormat" value="Encrypted" />',
    f"x = '{drawn(30, HEX)}'  # nothing of plaid's",
    "plaid = plaid_client_of_the_test_suite",
    "AIzaSyabcdefghijklmnopqrstuvwxyz1234567",  # of gitleaks' list of known values
    "SECRET_KEY = 'the secret key of this site comes from the environment'",
    "api_key = getAccessTokenForUserOfThisName",
    # words, placeholders and vectors
    'PASSWORD_RESET_TEMPLATE_V2 = "resetPasswordTemplate2Html"',
    *('secret_name = "kubernetesServiceAccountTokenV1"', 'api_key = os.environ["API_KEY_2"]'),
    *("password: ${VAULT_PASSWORD_2}", 'password = getpass("Password 1: ")', 'password = "changeme12345"'),
    *('password = "<password>"', "token = cursor.nextPageToken2Value"),
    'secret = "c2VjcmV0IGlzIHNlY3VyZQ=="',  # secret is secure
    "  password: dmFsdWUtMg0K",  # value-2
    'encryption_key = "000102030405060708090A0B0C0D0E0F"',
    f"# NIST, AES-128 in CBC\nsecret_key = {drawn(32, HEX)}\n",
    f'Ctrl.digest = SHA256\nhexsecret = "{drawn(24, HEX)}"',
    'password_hash = "pbkdf2_sha256$260000$' + drawn(22) + '"',
    'password = "$argon2id$v=19$m=65536,t=3,p=4$' + drawn(22) + '"',
    'password = "#jbcrypt:$2a$10$' + drawn(53) + '"',
    'oauth_token="ad180jjd733klru7"',  # RFC 5849
    "secret = billing-service-production-2024-01-credentials-v12",
    *('nextPageToken: "' + drawn(24) + '"', "http://user:pass;word@host/file"),
    *("https://home-user:home-pass@example.org", "ftp://u:p%40ssword@example.org"),
    "http://host:p4ssw0rd@example.org",
    "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",  # RFC 7617
    *('"authorPHID": "PHID-USER-7hh4j4mpuwlnzvkapvse"', f'("sha1", "{drawn(40, HEX)}")'),
]


@pytest.mark.parametrize("text", STAY)
def test_what_stays(text):
    assert only(text) == (text, {})


NEAR = ("aio_{27w}", "apify_api_{30w}", "sqp_{39h}", "bkua_{36c}", "figu_{12u}", f"wakati_{UUID}", "nvapi_{64u}")
NEAR += ("lsv2_pt_{30h}_{10h}", "pcsk_{6w}", "re_{8w}", "e2b_{38h}", "fw_{20w}", "pa-{20u}", "sk_{40h}", f"apis-{UUID}")
NEAR += ("nfp_{20w}", "vcp_{8w}", "EAAA{20u}", "EZAK{20w}", f"pat-{UUID}", "rootly_{20h}", "phx_{12w}", f"id-{UUID}")
NEAR += ("class_re_compile_{8c}", "csk-{20c}", "SWMTKN-1-{8c}", "sha256-{43b}=", "task_{48h}x", "{40h}", "v1.{12h}")


@pytest.mark.parametrize("form", NEAR)
def test_what_is_not_quite_the_form_of_an_issuer(form):
    for seed in range(5):
        text = f"use(\n  '{made(form, seed)}'\n)\n"
        assert only(text, ("secrets",)) == (text, {})
