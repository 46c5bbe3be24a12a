"""The page that describes the API; it loads nothing from elsewhere."""

import re
from html.parser import HTMLParser

import pytest
from asking import ask
from fake_backend import FakeBackend, fake_model

NAMES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml")  # of formats; nobody loads them
URL = re.compile(r"""(?:https?:|wss?:|ftp:)?//[\w.-]+\.[a-z]{2,}[^\s"'<>)]*""")


class Page(HTMLParser):
    """What a page refers to, its visible words, and the tags that can act."""

    def __init__(self, response):
        super().__init__()
        self.targets, self.ids, self.tags, self.words, self.handlers = [], set(), [], "", []
        self.feed(response.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "action", "data", "srcset", "poster"):
                self.targets.append(value)
            if name == "id":
                self.ids.add(value)
            if name.startswith("on"):
                self.handlers.append((tag, name))

    def handle_data(self, data):
        self.words += data


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect"])
def test_fastapis_other_pages_are_not_served(path):
    assert ask("GET", path).status_code == 404


def test_the_description_has_no_script_and_names_no_other_server():
    response = ask("GET", "/docs")
    found = Page(response)
    policy = response.headers["content-security-policy"]
    assert response.headers["content-type"].startswith("text/html") and policy.startswith("default-src 'none'")
    assert not any(word in policy for word in ("script-src", "http", "*")) and "frame-ancestors 'none'" in policy
    assert not {"script", "iframe", "object", "embed", "form", "img", "link", "base"} & {*found.tags}
    assert {target.removeprefix("#") for target in found.targets} <= {*found.ids, "openapi.json"}
    assert not found.handlers and not [url for url in URL.findall(response.text) if not url.startswith(NAMES)]
    assert ask("HEAD", "/docs").status_code == 200


def test_the_description_has_every_route_and_every_field():
    api, found = ask("GET", "/openapi.json").json(), Page(ask("GET", "/docs"))
    words = found.words
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in words and operation["description"] in words
    for name, schema in api["components"]["schemas"].items():
        for field, values in schema.get("properties", {}).items():
            assert field in words, (name, field)
            assert " ".join(values.get("description", "").split()) in words, (name, field)
    for kind in ("list of text", "text or list of text or list of whole number or list of list of whole number"):
        assert kind in words
    assert "no effect: clients take turns" in words and "0 or more" in words and "at most 4096 entries" in words


def test_a_hostile_name_of_a_model_is_text():
    name = "<script>alert(1)</script>"
    response = ask("GET", "/docs", lambda: FakeBackend(model=fake_model(name=name)))
    assert name not in response.text and "&lt;script&gt;alert(1)" in response.text
    assert name in Page(response).words
