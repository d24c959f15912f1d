-- What was taken over from the first version: its tables, each of its mailboxes
-- and, at the end, all of it.
CREATE TABLE IF NOT EXISTS imports (
    what    TEXT PRIMARY KEY NOT NULL,
    done_at INTEGER NOT NULL
) WITHOUT ROWID;
