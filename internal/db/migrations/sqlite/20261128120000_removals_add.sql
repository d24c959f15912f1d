-- Accounts whose rows are gone and whose mail may still be there. Their names are
-- not free until it is gone, too.
CREATE TABLE IF NOT EXISTS removals (
    username   TEXT PRIMARY KEY NOT NULL,
    removed_at INTEGER NOT NULL
) WITHOUT ROWID;
