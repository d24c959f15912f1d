-- Settings, storage limits, blocks, tokens and counters, with the names that
-- the predecessors use, so that either program can open the file.
CREATE TABLE IF NOT EXISTS settings (
    key   TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS quotas (
    username       TEXT PRIMARY KEY NOT NULL,
    max_storage    BIGINT NOT NULL DEFAULT 0,
    created_at     BIGINT NOT NULL DEFAULT 0,
    first_login_at BIGINT NOT NULL DEFAULT 0,
    last_login_at  BIGINT NOT NULL DEFAULT 0,
    used_token     TEXT
);
CREATE TABLE IF NOT EXISTS blocked_users (
    username   TEXT PRIMARY KEY NOT NULL,
    reason     TEXT NOT NULL DEFAULT '',
    blocked_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS registration_tokens (
    token      TEXT PRIMARY KEY NOT NULL,
    max_uses   INTEGER NOT NULL DEFAULT 1,
    used_count INTEGER NOT NULL DEFAULT 0,
    comment    TEXT NOT NULL DEFAULT '',
    expires_at TIMESTAMP,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS dns_overrides (
    lookup_key  TEXT PRIMARY KEY NOT NULL,
    target_host TEXT NOT NULL,
    comment     TEXT NOT NULL DEFAULT '',
    created_at  TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at  TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS message_stats (
    name  TEXT PRIMARY KEY NOT NULL,
    count INTEGER NOT NULL DEFAULT 0
);
