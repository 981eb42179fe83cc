from __future__ import annotations

import inspect

import pytest

from corrigenda import errors
from corrigenda.errors import (
    CorrigendaError,
    InvalidEdit,
    MissingExtra,
    StoreBusy,
    StoreNotWritable,
    UnknownName,
    about,
)


def test_the_drawing_names_every_error():
    names = {name for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, CorrigendaError)}
    assert names <= set((errors.__doc__ or "").replace("(", " ").split())


def test_an_error_shows_message_and_remedy_whatever_its_other_base():
    for kind in (InvalidEdit, StoreNotWritable, StoreBusy):
        assert str(kind("it broke", remedy="Mend it.")) == "it broke\n  → Mend it."
    assert str(InvalidEdit("it broke")) == "it broke"
    assert isinstance(StoreNotWritable("x"), OSError)


def test_unknown_names_suggest_neighbours():
    error = UnknownName.among("strategy", "ikee", ["auto", "ike"])
    assert "Did you mean 'ike'? Known: auto, ike." in str(error)
    assert "Known: none." in str(UnknownName.among("strategy", "x", []))


def test_missing_extra_names_the_pip_line():
    assert "pip install 'corrigenda[redis]'" in str(MissingExtra.named("redis", "redis"))


def test_errors_learn_their_edit_once():
    with pytest.raises(InvalidEdit) as caught, about("outer"), about("inner"):
        raise InvalidEdit("x")
    assert caught.value.edit == "inner"
