-- Push tokens and the servers that mail is fetched from.
CREATE TABLE IF NOT EXISTS push_tokens (
    username     TEXT NOT NULL,
    device_token TEXT NOT NULL,
    updated_at   TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (username, device_token)
);
CREATE TABLE IF NOT EXISTS exchangers (
    name          TEXT PRIMARY KEY NOT NULL,
    url           TEXT NOT NULL,
    enabled       INTEGER NOT NULL DEFAULT 1,
    poll_interval INTEGER NOT NULL DEFAULT 60,
    last_poll_at  TIMESTAMP,
    created_at    TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at    TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
