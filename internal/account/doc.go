// Package account knows who may log in: credentials, blocks, registration
// tokens, storage limits, and the rules for new names and passwords.
//
// Its tables are passwords, quotas, append_limits, blocked_users and registration_tokens.
// Everything but the tokens is also held in memory, read in one pass at Open
// and changed when a write has been committed, in the order of the commits;
// so Exists, Blocked, Limit, Quick and Info read memory only. The password
// table has two layouts, passwords(username, hash, created_at) and the first
// predecessor's passwords(key, value); both are read and written. Rows whose
// name begins with two underscores are settings and never users.
//
// The package never keeps a password in clear after a call returns, except in
// the copy that a background rewrite of its hash uses and wipes. It does not
// know which protocol a login came by, nor sessions or mail: the Ended hook
// tells who else has to act.
//
// # Hashes and what a refusal costs
//
// A password of at least 20 characters whose Strength is 100 bits or more is
// stored as salted SHA-256, anything weaker as argon2id (19 MiB, two passes).
// All forms of the predecessors verify. After a successful login with another
// form the hash is rewritten, in the background, by compare-and-set: a
// password that was changed or an account that was deleted meanwhile stays so.
//
// Every refusal of a pair of address and password costs one slow hash,
// whether the account is missing, blocked, has a fast hash or a slow one; so
// the time of the answer does not tell them apart. (Imported bcrypt and crypt
// hashes take their own time until the first login rewrites them.) Clients
// repeat refused logins for weeks, so a bounded table remembers, as keyed
// digests, which pairs were refused: the same pair again costs nothing, and
// tells nothing that the first refusal did not tell. Slow hashes run in a few
// slots; when too many wait for one, the answer is fault.Busy. A password
// that verified against a slow hash is remembered the same way, until the row
// changes.
//
// All methods may be called from many goroutines.
package account
