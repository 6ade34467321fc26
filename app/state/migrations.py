"""How the state of an earlier release becomes one of this release: one step for each version of the schema.

A step that was released is never changed. A new table needs no step: a store that lacks one gets it. A step is for what
an earlier release could not read, such as another column; the changelog then says that there is no way back.
"""

from collections.abc import Callable

STEPS: dict[int, tuple[str, ...]] = {
    1: (
        "CREATE TABLE IF NOT EXISTS scancer_loads (name VARCHAR(255) NOT NULL PRIMARY KEY, generation BIGINT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS scancer_shadows "
        "(name VARCHAR(255) NOT NULL PRIMARY KEY, version VARCHAR(64) NOT NULL, share DOUBLE PRECISION NOT NULL)",
    ),
}
"""By the version that a step leads to: statements that SQLite and PostgreSQL both know."""


def migrate(execute: Callable[[str], object], found: int) -> None:
    """Make the steps from a schema's version to this release's, in the transaction of `execute`."""
    for version in sorted(STEPS):
        if version > found:
            for statement in STEPS[version]:
                execute(statement)
