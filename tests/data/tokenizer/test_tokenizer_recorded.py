"""A dataset's tokenizer reaches the run and what is made from its checkpoints, whatever the family."""

import pytest
from tokenizer_files import chatglm_model, write_chatglm

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.gpt2 import CodeGeeXTokenizer
from ms_codegeex.data.tokenizer.recorded import (
    checkpoint_has_tokenizer,
    checkpoint_tokenizer,
    family_tokenizer,
    keep_files,
)


def test_by_name(tmp_path):
    checkpoint = tmp_path / "run/checkpoints/step-00000004"
    for name in ("codegeex", "codegen-nl", "codegen-multi"):
        state = {"tokenizer": load_tokenizer(name).description()}
        found = checkpoint_tokenizer(checkpoint, state, "codegen")
        assert found.name == name and found.fingerprint == state["tokenizer"]["fingerprint"]


@pytest.mark.parametrize("kind", ["chatglm", "wide"])
def test_by_files(tmp_path, kind):
    """A tokenizer that no name makes: from the dataset to the run, from the run to the checkpoint's model."""
    dataset, run = tmp_path / "dataset", tmp_path / "run"
    if kind == "chatglm":
        write_chatglm(dataset / "tokenizer")
    else:
        CodeGeeXTokenizer(max_len=20).save(dataset / "tokenizer")
    state = {"tokenizer": load_tokenizer(dataset / "tokenizer").description()}
    run.mkdir()
    keep_files(dataset, run)
    keep_files(dataset, run)  # as a resumed run does
    found = checkpoint_tokenizer(run / "checkpoints/step-00000004", state, "codegeex")
    assert found.fingerprint == state["tokenizer"]["fingerprint"] == load_tokenizer(run / "tokenizer").fingerprint


def test_a_named_tokenizer_has_no_files_to_keep(tmp_path):
    (tmp_path / "dataset").mkdir()
    keep_files(tmp_path / "dataset", tmp_path)
    assert not (tmp_path / "tokenizer").exists()


def test_older_manifests_have_their_familys_if_it_has_one(tmp_path):
    checkpoint = tmp_path / "run/checkpoints/step-00000004"
    for state in ({}, {"tokenizer": None}):
        assert checkpoint_tokenizer(checkpoint, state, "codegeex").name == "codegeex"
        assert checkpoint_has_tokenizer(checkpoint, state, "codegeex")
        for family in ("codegen", "codegeex2"):
            assert not checkpoint_has_tokenizer(checkpoint, state, family)
            with pytest.raises(UserError, match=f"does not say which tokenizer this {family} model has; put its files"):
                checkpoint_tokenizer(checkpoint, state, family)
    load_tokenizer("codegen-nl").save(tmp_path / "run/tokenizer")  # what the message asks for
    assert checkpoint_has_tokenizer(checkpoint, {}, "codegen")
    assert checkpoint_tokenizer(checkpoint, {}, "codegen").name == "codegen-nl"
    with pytest.raises(UserError, match=r"m\.pt: does not say .* do this"):
        family_tokenizer("m.pt", "codegen", "do this")


def test_a_lost_or_changed_tokenizer_is_reported(tmp_path):
    run = tmp_path / "run"
    checkpoint = run / "checkpoints/step-00000004"
    state = {"tokenizer": load_tokenizer(write_chatglm(tmp_path / "one")).description()}
    said = f"{run}/tokenizer: missing, but {checkpoint} was made with tokenizer codegeex2"
    with pytest.raises(UserError, match=said):
        checkpoint_tokenizer(checkpoint, state, "codegeex2")
    write_chatglm(run / "tokenizer", chatglm_model(vocab_size=400))
    with pytest.raises(UserError, match="no longer the one"):
        checkpoint_tokenizer(checkpoint, state, "codegeex2")
