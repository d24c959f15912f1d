//go:build !unix

package app

// foreign: files have no owners of that kind here.
func foreign(string, []string) ([]string, string) { return nil, "" }
