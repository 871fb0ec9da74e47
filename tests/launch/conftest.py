"""A stand-in object store for every test that asks for one."""

import pytest

from launch.object_store import ObjectStore
from pipeline.files import Folder


@pytest.fixture
def enter(monkeypatch):
    """A function that makes gs:// of this process the store given."""

    def enter(store):
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)

    return enter


@pytest.fixture
def store(enter):
    with ObjectStore() as store:
        enter(store)
        yield store


@pytest.fixture
def folder(store):
    return Folder("gs://bucket/a store")
