-- The second predecessor keeps one modification sequence per account here.
CREATE TABLE IF NOT EXISTS mailbox_modseq (
    username TEXT PRIMARY KEY NOT NULL,
    modseq   INTEGER NOT NULL DEFAULT 0
);
