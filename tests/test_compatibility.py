"""A database that an earlier commit wrote is taken over; names of results stay.

The database (as SQL) was written by 24bb01a, with three records and a webhook that still waited,
and brought to revision 0007 by the migrations that led there.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import text

from saymask.masks import decode_coco_rle
from saymask_backend.records.database import StoreError
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import ProjectKey, RecordFilter
from saymask_backend.services.record import Recorder
from saymask_worker.config.pipeline import PipelineConfig
from saymask_worker.config.scoring import STARTER_SCORING
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.language.nouns import load_nouns
from tests.conftest import DATA, compare_with_tables
from tests.factories import square


def fill_database(stores: Stores) -> None:
    engine = stores.database.engine
    script = (DATA / f"database_0007.{engine.dialect.name}.sql").read_text("utf-8")
    if engine.dialect.name == "sqlite":
        assert engine.url.database is not None
        with closing(sqlite3.connect(engine.url.database)) as connection:
            connection.executescript(script)
    else:
        with engine.begin() as connection:
            connection.exec_driver_sql(script)


def test_a_database_of_revision_0007_is_taken_over(url: str) -> None:
    with closing(Stores(url)) as stores:
        fill_database(stores)
        stores.migrate()
        assert stores.database.revision() == "0008"
        assert compare_with_tables(stores) == []
        cat, dog, moon = stores.records.iterate_records(RecordFilter())
        assert [(r.outcome, r.expression) for r in (cat, dog, moon)] == [
            ("accepted", "the cat"), ("drawn", "the dog"), ("no_referent", "the moon"),
        ]  # fmt: skip
        assert (cat.image, cat.rank, cat.image_sha256) == ("/data/upload/1.png", 2, f"{1:064x}")
        assert [record.source for record in (cat, dog, moon)] == ["proposals", None, None]
        assert cat.coco_rle is not None
        assert (decode_coco_rle(cat.coco_rle) == square(24)).all()
        (offer,) = stores.requests.load_offers(ProjectKey(7, 1), 1)
        assert [(c.rank, c.mask.area) for c in offer.candidates] == [(1, 144), (2, 144)]
        assert Recorder(stores).process_waiting() == 1
        *_, tree = stores.records.iterate_records(RecordFilter())
        assert (tree.id, tree.outcome, tree.expression) == (4, "drawn", "the tree")


@pytest.mark.parametrize(
    ("revision", "cause", "cure"),
    [
        ("0003", "older than this version can read", "Export its records"),
        ("0999", "which this version does not know", "Update saymask"),
    ],
)
def test_a_database_of_another_revision_is_left_as_it_is(
    url: str, revision: str, cause: str, cure: str
) -> None:
    with closing(Stores(url)) as stores:
        fill_database(stores)
        with stores.database.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
        with pytest.raises(StoreError, match=f"schema {revision}, {cause}") as refused:
            stores.migrate()
        assert cure in (refused.value.cure or "")
        assert stores.database.revision() == revision
        assert stores.records.count_records(RecordFilter()) == 3


def test_fingerprints_stay() -> None:
    """They name model versions and the folders of prepared images.

    A change here means that every image is prepared again: it must be meant.
    """
    config: PipelineConfig = load_worker_settings().pipeline_config(STARTER_SCORING)
    assert config.fingerprint() == "4c956d18dd"
    assert config.preparation_fingerprint() == "1334fba965"
    # By the nouns it is decided which proposals are cropped: with others, raise the revision.
    assert load_nouns().fingerprint == "f41d214b"
