-- What became of fetching mail from an exchanger, and what was fetched.
CREATE TABLE IF NOT EXISTS exchanger_state (
    name           TEXT PRIMARY KEY NOT NULL,
    token          TEXT NOT NULL DEFAULT '',
    last_error     TEXT NOT NULL DEFAULT '',
    received_total INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS exchanger_seen (
    mark    BLOB PRIMARY KEY NOT NULL,
    seen_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS exchanger_seen_at ON exchanger_seen (seen_at);
