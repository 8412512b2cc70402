"""The tables of the embedded Learning Loop. A change of them is a new SCHEMA_VERSION and a migration.

Times are ISO 8601 texts in UTC but for `*_s`, seconds since 1970. Columns named `*_json` hold what the wire holds.
"""

from typing import Final

__all__ = ["SCHEMA", "SCHEMA_VERSION"]

SCHEMA_VERSION: Final = 1

SCHEMA: Final = """
CREATE TABLE users (
    name TEXT PRIMARY KEY,
    salt BLOB NOT NULL,
    password_hash BLOB NOT NULL,
    is_default INTEGER NOT NULL          -- with the password that everybody knows
) STRICT;

CREATE TABLE sessions (
    token_hash BLOB PRIMARY KEY,         -- SHA-256 of the cookie
    user TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
    expires_s REAL NOT NULL
) STRICT;

CREATE TABLE projects (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: it names the project's folder
    organization TEXT NOT NULL,
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    created TEXT NOT NULL,
    target_model TEXT,
    UNIQUE (organization, project)
) STRICT;

CREATE TABLE categories (
    id TEXT PRIMARY KEY,
    project_id INTEGER NOT NULL REFERENCES projects ON DELETE CASCADE,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    color TEXT,
    hotkey TEXT,
    point_size INTEGER,
    description TEXT,
    UNIQUE (project_id, name)
) STRICT;

CREATE TABLE images (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they came
    id TEXT NOT NULL UNIQUE,
    project_id INTEGER NOT NULL REFERENCES projects ON DELETE CASCADE,
    name TEXT NOT NULL,                        -- the stem of the file they came as
    state TEXT NOT NULL,
    "set" TEXT NOT NULL,
    source TEXT,
    created TEXT,                              -- as the sender wrote it
    received TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    tags_json TEXT NOT NULL,
    annotations_json TEXT NOT NULL,
    novelty_score INTEGER                      -- what an outside program said of it
) STRICT;
CREATE INDEX images_by_state ON images (project_id, state, number);

CREATE TABLE detections (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    model_name TEXT NOT NULL,                  -- what the same model finds again takes the place of what it found before
    detections_json TEXT NOT NULL,
    PRIMARY KEY (image_id, model_name)
) STRICT, WITHOUT ROWID;

CREATE TABLE models (
    id TEXT PRIMARY KEY,
    project_id INTEGER NOT NULL REFERENCES projects ON DELETE CASCADE,
    major INTEGER NOT NULL,
    minor INTEGER NOT NULL,
    training_number INTEGER,
    base_model TEXT,
    created TEXT NOT NULL,
    comment TEXT NOT NULL,
    confusion_matrix_json TEXT,
    UNIQUE (project_id, major, minor)
) STRICT;

CREATE TABLE model_files (
    model_id TEXT NOT NULL REFERENCES models ON DELETE CASCADE,
    format TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    created TEXT NOT NULL,
    PRIMARY KEY (model_id, format)
) STRICT, WITHOUT ROWID;

CREATE TABLE trainings (
    project_id INTEGER NOT NULL REFERENCES projects ON DELETE CASCADE,
    number INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE,
    trainer_id TEXT,
    trainer_name TEXT,
    model_variant TEXT NOT NULL,
    base_model TEXT,
    hyperparameters_json TEXT NOT NULL,
    state TEXT NOT NULL,
    progress REAL,
    errors_json TEXT NOT NULL,
    started TEXT NOT NULL,
    ended TEXT,
    PRIMARY KEY (project_id, number)
) STRICT;

CREATE TABLE metrics (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL,
    training_number INTEGER NOT NULL,
    received TEXT NOT NULL,
    model_id TEXT,
    report_json TEXT NOT NULL,
    FOREIGN KEY (project_id, training_number) REFERENCES trainings ON DELETE CASCADE
) STRICT;
CREATE INDEX metrics_by_training ON metrics (project_id, training_number, number);

CREATE TABLE nodes (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    organization TEXT NOT NULL,
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    status_json TEXT NOT NULL,
    seen TEXT NOT NULL,
    PRIMARY KEY (kind, id, organization, project)
) STRICT, WITHOUT ROWID;
"""
