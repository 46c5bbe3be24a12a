"""Formats of keys and tokens, as their issuers publish them."""

from __future__ import annotations

from typing import NamedTuple

_WORD = rb"[A-Za-z0-9]"
_URL = rb"[A-Za-z0-9_-]"  # the alphabet of base64url
NOT_LONGER = rb"(?![A-Za-z0-9_-])"


class SecretFormat(NamedTuple):
    """One format: its name in reports, the literal text at its beginning, and a regular expression of the rest. If that
    has a group 1, only the group is replaced, otherwise all of it. `NOT_LONGER` is the only assertion in it."""

    kind: str
    start: bytes
    rest: bytes


def _each(kind: str, starts: str, rest: bytes) -> tuple[SecretFormat, ...]:
    return tuple(SecretFormat(kind, start.encode(), rest) for start in starts.split())


FORMATS: tuple[SecretFormat, ...] = (
    # clouds
    *_each("AWS access key", "AKIA ASIA", rb"[A-Z2-7]{16}" + NOT_LONGER),
    *_each("AWS Bedrock key", "bedrock-api-key-", _URL + rb"{28,}"),
    *_each("Google API key", "AIza", _URL + rb"{35}" + NOT_LONGER),
    *_each("Google OAuth client secret", "GOCSPX-", _URL + rb"{28}" + NOT_LONGER),
    *_each("Google OAuth token", "ya29.", _URL + rb"{30,}"),
    *_each("Azure key", "AccountKey= SharedAccessKey= AccessKey=", rb"([A-Za-z0-9+/]{40,86}==?)"),
    *_each("Alibaba access key", "LTAI", _WORD + rb"{20}" + NOT_LONGER),
    *_each("Tencent secret id", "AKID", _WORD + rb"{32}" + NOT_LONGER),
    *_each("DigitalOcean token", "dop_v1_ doo_v1_ dor_v1_", rb"[a-f0-9]{64}" + NOT_LONGER),
    *_each("Databricks token", "dapi", rb"[a-f0-9]{32}(?:-\d)?" + NOT_LONGER),
    *_each("Heroku key", "HRKU-", rb"[A-Za-z0-9_-]{36,60}" + NOT_LONGER),
    *_each("Vault token", "hvs. hvb. hvr.", _URL + rb"{24,}"),
    *_each("Pulumi token", "pul-", rb"[a-f0-9]{40}" + NOT_LONGER),
    *_each("Doppler token", "dp.pt. dp.st. dp.ct. dp.sa.", rb"[A-Za-z0-9._-]{40,}"),
    *_each("Fly token", "fo1_", _URL + rb"{43}" + NOT_LONGER),
    *_each("Supabase token", "sbp_", rb"[a-f0-9]{40}" + NOT_LONGER),
    *_each("PlanetScale token", "pscale_tkn_ pscale_pw_ pscale_oauth_", rb"[A-Za-z0-9_.=-]{32,64}" + NOT_LONGER),
    *_each("age key", "AGE-SECRET-KEY-1", rb"[A-Z0-9]{58}" + NOT_LONGER),
    # models
    *_each("Anthropic key", "sk-ant-", rb"[a-z]{2,8}\d{2}-" + _URL + rb"{80,}"),
    *_each("OpenAI key", "sk-", _WORD + rb"{20}T3BlbkFJ" + _WORD + rb"{20}" + NOT_LONGER),
    *_each("OpenAI key", "sk-proj- sk-svcacct- sk-admin-", _URL + rb"{40,}"),
    *_each("model service key", "sk-", rb"(?:or-v1-[a-f0-9]{64}|[a-f0-9]{32})" + NOT_LONGER),  # OpenRouter, DeepSeek
    *_each("Hugging Face token", "hf_ api_org_", rb"[A-Za-z]{34}" + NOT_LONGER),
    *_each("Groq key", "gsk_", _WORD + rb"{52}" + NOT_LONGER),
    *_each("Replicate token", "r8_", _WORD + rb"{37}" + NOT_LONGER),
    *_each("xAI key", "xai-", _WORD + rb"{80}" + NOT_LONGER),
    *_each("Perplexity key", "pplx-", _WORD + rb"{48}" + NOT_LONGER),
    # code and packages
    *_each("GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", _WORD + rb"{36,251}" + NOT_LONGER),
    *_each("GitHub token", "github_pat_", _WORD + rb"{22}_" + _WORD + rb"{59}" + NOT_LONGER),
    *_each(
        "GitLab token",
        "glpat- glptt- gldt- glrt- gloas- glcbt- glft- glsoat- glagent- glimt- GR1348941",
        rb"[A-Za-z0-9_.-]{20,}",
    ),
    *_each("npm token", "npm_", _WORD + rb"{36}" + NOT_LONGER),
    *_each("PyPI token", "pypi-AgE", _URL + rb"{50,}"),
    *_each("RubyGems key", "rubygems_", rb"[a-f0-9]{48}" + NOT_LONGER),
    *_each("NuGet key", "oy2", rb"[a-z0-9]{43}" + NOT_LONGER),
    *_each("Docker token", "dckr_pat_ dckr_oat_", _URL + rb"{27,}"),
    *_each("Postman key", "PMAK-", rb"[a-f0-9]{24}-[a-f0-9]{34}" + NOT_LONGER),
    *_each("Atlassian token", "ATATT3xFfGF0 ATCTT3xFfGN0", rb"[A-Za-z0-9_=-]{60,}"),
    *_each("Linear key", "lin_api_", _WORD + rb"{40}" + NOT_LONGER),
    *_each("Figma token", "figd_", _URL + rb"{40}" + NOT_LONGER),
    *_each("Notion token", "ntn_ secret_", _WORD + rb"{43,50}" + NOT_LONGER),
    *_each("Airtable token", "pat", _WORD + rb"{14}\.[a-f0-9]{64}" + NOT_LONGER),
    *_each("Dropbox token", "sl.", _URL + rb"{130,}"),
    # messages
    *_each("Slack token", "xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs-", rb"(?:[A-Za-z0-9]+-){1,4}[A-Za-z0-9]{8,}"),
    *_each(
        "Slack webhook",
        "hooks.slack.com/services/ hooks.slack.com/workflows/ hooks.slack.com/triggers/",
        rb"([A-Za-z0-9/]{30,})",
    ),
    *_each("Discord webhook", "discord.com/api/webhooks/ discordapp.com/api/webhooks/", rb"(\d{17,20}/[\w-]{60,70})"),
    # A Discord token begins with the base64 of a user's number, whose first digit chooses one of three letters.
    *_each(
        "Discord token",
        "MD MT Mj Mz ND NT Nj Nz OD OT Oj Oz",
        _URL + rb"{21,26}\." + _URL + rb"{6}\." + _URL + rb"{27,38}" + NOT_LONGER,
    ),
    *_each("Teams webhook", "webhook.office.com/webhookb2/", rb"([A-Za-z0-9@/-]{100,})"),
    *_each("SendGrid key", "SG.", _URL + rb"{22}\." + _URL + rb"{43}" + NOT_LONGER),
    *_each("Mailgun key", "key-", rb"[a-f0-9]{32}" + NOT_LONGER),
    *_each("Twilio key", "SK", rb"[a-f0-9]{32}" + NOT_LONGER),
    # payments and shops
    *_each("Stripe key", "sk_live_ sk_test_ rk_live_ rk_test_", _WORD + rb"{24,}"),
    *_each("Stripe key", "whsec_", _WORD + rb"{32,}"),
    *_each("Shopify token", "shpat_ shpca_ shppa_ shpss_", rb"[a-fA-F0-9]{32}" + NOT_LONGER),
    *_each("Square token", "sq0atp- sq0csp-", _URL + rb"{22,43}" + NOT_LONGER),
    # monitoring
    *_each("Grafana token", "glsa_", _WORD + rb"{32}_[A-Fa-f0-9]{8}" + NOT_LONGER),
    *_each("Grafana token", "glc_", rb"[A-Za-z0-9+/=]{32,}"),
    *_each("New Relic key", "NRAK-", rb"[A-Z0-9]{27}" + NOT_LONGER),
    *_each("Sourcegraph token", "sgp_", rb"(?:(?:[a-fA-F0-9]{16}|local)_)?[a-fA-F0-9]{40}" + NOT_LONGER),
    *_each("Sentry token", "sntrys_ sntryu_", rb"[A-Za-z0-9+/=_-]{40,}"),
    # of no one issuer
    *_each("JSON web token", "eyJ", rb"[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}"),
)
