"""All stores of one database, opened together."""

from __future__ import annotations

from sqlalchemy import select

from saymask_backend.records.annotations import AnnotationStore
from saymask_backend.records.database import Database
from saymask_backend.records.events import EventStore
from saymask_backend.records.records import RecordStore
from saymask_backend.records.requests import RequestStore
from saymask_backend.records.tables import AnnotationVersion, Event, Request
from saymask_backend.records.verifications import VerificationStore


class Stores:
    """The stores of one database.

    Args:
        url, creates: see ``Database``.

    Raises:
        ConfigError: as ``Database``.
    """

    def __init__(self, url: str, *, creates: bool = True) -> None:
        self.database = Database(url, creates=creates)
        self.requests = RequestStore(self.database)
        self.events = EventStore(self.database)
        self.annotations = AnnotationStore(self.database)
        self.records = RecordStore(self.database)
        self.verifications = VerificationStore(self.database)

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def migrate(self) -> None:
        """Bring the schema up to date, see ``Database.migrate``."""
        self.database.migrate()

    def list_projects(self) -> list[int]:
        """Return the ids of all projects that were ever seen."""
        ids = {
            project_id
            for table in (Request, AnnotationVersion, Event)
            for project_id in self.database.scalars(select(table.project_id).distinct())
        }
        return sorted(project_id for project_id in ids if project_id)
