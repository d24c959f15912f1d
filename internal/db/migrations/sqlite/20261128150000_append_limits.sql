-- The largest message, in octets, of accounts that have a limit of their own.
CREATE TABLE IF NOT EXISTS append_limits (
    username TEXT PRIMARY KEY NOT NULL,
    bytes    BIGINT NOT NULL
) WITHOUT ROWID;
