-- What is allowed for one domain by one transport, and whether its certificate
-- is checked: '' (as usual), 'allow' or 'block'; tls is '' or 'relaxed'. A table of
-- its own, because a predecessor takes every row of federation_rules for a block.
CREATE TABLE IF NOT EXISTS federation_transports (
    domain     TEXT PRIMARY KEY NOT NULL,
    https      TEXT NOT NULL DEFAULT '',
    http       TEXT NOT NULL DEFAULT '',
    smtp       TEXT NOT NULL DEFAULT '',
    tls        TEXT NOT NULL DEFAULT '',
    updated_at INTEGER NOT NULL DEFAULT 0
);
