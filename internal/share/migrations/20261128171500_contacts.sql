-- The table of both predecessors; theirs is kept as it is.
CREATE TABLE IF NOT EXISTS contacts (
    slug       TEXT PRIMARY KEY NOT NULL,
    url        TEXT NOT NULL,
    name       TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    address    TEXT
);
-- Slugs that differ in the case of letters only would be taken for each other.
CREATE INDEX IF NOT EXISTS contacts_slug_nocase ON contacts (slug COLLATE NOCASE);
-- What belongs to an account goes with it. NULL is a row of a predecessor's.
CREATE INDEX IF NOT EXISTS contacts_address ON contacts (address);
