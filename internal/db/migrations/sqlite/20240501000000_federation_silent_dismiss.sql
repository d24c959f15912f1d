-- Domains whose mail is accepted and dropped.
CREATE TABLE IF NOT EXISTS federation_silent_dismiss (
    domain     TEXT PRIMARY KEY NOT NULL,
    created_at INTEGER NOT NULL DEFAULT 0
);
