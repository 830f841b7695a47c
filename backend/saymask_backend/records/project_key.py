"""Which project of which Label Studio."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, order=True)
class ProjectKey:
    """A project of one installation of Label Studio.

    Two installations, and one that was set up anew, number their projects, tasks and annotations
    from 1. Together with the second in which a project was created, its number is unique, and
    Label Studio sends both with every call.

    Attributes:
        id: Label Studio's number; 0 when it did not say.
        created: Unix time of the project's creation, seconds; 0 when it is unknown.
    """

    id: int
    created: int = 0


def to_project_key(project_id: int, created_at: datetime | None) -> ProjectKey:
    """Build the key from what Label Studio's API and webhooks say."""
    return ProjectKey(project_id, int(created_at.timestamp()) if created_at else 0)
