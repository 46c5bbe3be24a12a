"""A room that the installation lacks is one clear line; another missing module is the error that it is."""

import sys

import pytest

import ms_codegeex
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.extras import extra


def test_an_extra_is_its_module():
    assert extra("ladder.settings", "--ladder") is sys.modules["ms_codegeex.ladder.settings"]


def test_what_is_not_installed_is_named_with_its_option():
    with pytest.raises(UserError, match=r"^--many: ms_codegeex\.no_such_room is not installed; "):
        extra("no_such_room.network", "--many")


def test_what_an_extra_lacks_itself_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "odd_room.py").write_text("import no_such_library\n")
    monkeypatch.setattr(ms_codegeex, "__path__", [*ms_codegeex.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        extra("odd_room", "--odd")
