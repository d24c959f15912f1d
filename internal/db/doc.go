// Package db opens the relay's SQL database, brings its tables up to date and
// runs statements. It owns no table but its ledger and knows no noun: it sees
// statements, not accounts.
//
// On disk it is one SQLite file in the state directory, credentials.db or an
// existing chatmail.db, mode 0600, in WAL mode (so beside it lie -wal and
// -shm), with synchronous=NORMAL: a power failure may lose the last second of
// commits and never corrupts. The sqlite3 shell may read it at any time.
//
// One goroutine writes. Writes that wait share one transaction, each inside
// its own savepoint: one may fail without the others, many cost little more
// than one, and no writer of this process ever finds the database locked. A
// small pool of connections reads.
//
// Contact links are in a file of their own, sharing.db, which is opened in the same
// way with migrations of its owner.
//
// The schema comes from numbered files in migrations/, applied in order and
// recorded with their checksums in _madmail_migrations. Databases of both
// predecessors are adopted: see adopt.go. The ledger of the second one,
// _sqlx_migrations, is read and never written.
//
// What is particular to SQLite stands in sqlite.go. Statements are written
// with ? for parameters and pass through one function, prepare; a second
// dialect is a sibling of that file and a directory of migrations.
//
// All methods may be called from many goroutines.
package db
