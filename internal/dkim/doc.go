// Package dkim signs messages and checks signatures as RFC 6376 has it, with the
// algorithms of RFC 8301 and RFC 8463.
//
// It turns bytes into signatures and signatures into results. It never asks the
// DNS itself (callers pass a lookup), reads no files, keeps no keys between calls,
// and does not decide what a result means for a message: package authres does.
//
// Canonicalisation and hashing are done by github.com/emersion/go-msgauth. What that
// library leaves open is decided here, before it sees a message: limits on the header
// block, on folds, on signature fields and on runs of blank lines (its simple
// canonicalisation keeps such a run and copies it again for every read), how key
// records with stray quotes or several strings are read, that every From field is
// signed, and how far a signature's clock may be ahead.
//
// All functions may be called from many goroutines; so may one Signer.
package dkim
