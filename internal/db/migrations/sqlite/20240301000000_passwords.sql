-- Who may log in. The first predecessor has passwords(key, value) instead;
-- such a table stays as it is.
CREATE TABLE IF NOT EXISTS passwords (
    username   TEXT PRIMARY KEY NOT NULL,
    hash       TEXT NOT NULL,
    created_at INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER))
);
