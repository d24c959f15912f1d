-- Everything here is additive: a predecessor can still open the file.

-- The operators' inspection sheet asks for this name and column.
CREATE VIEW IF NOT EXISTS federation_stats AS
    SELECT *, last_active AS last_updated FROM federation_server_stats;

CREATE INDEX IF NOT EXISTS idx_quotas_first_login_at ON quotas (first_login_at);
CREATE INDEX IF NOT EXISTS idx_quotas_last_login_at ON quotas (last_login_at);
CREATE INDEX IF NOT EXISTS idx_quotas_used_token ON quotas (used_token) WHERE used_token IS NOT NULL;

-- Bytes per account at the last flush; trusted after a clean stop only.
CREATE TABLE IF NOT EXISTS quota_usage (
    username  TEXT PRIMARY KEY NOT NULL,
    bytes     BIGINT NOT NULL DEFAULT 0,
    messages  BIGINT NOT NULL DEFAULT 0,
    dir_mtime BIGINT NOT NULL DEFAULT 0
);
