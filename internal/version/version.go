// Package version holds the product name and the facts of this build.
//
// The name stands here once; everything that prints it asks this package.
package version

import (
	"runtime"
	"runtime/debug"
)

// Name is the product and binary name.
const Name = "madmail"

// Version is the release number. The linker sets it for release builds
// (-X madmail/internal/version.Version=1.2.3).
var Version = "0.1.0-dev"

// Build identifies this very binary, so that a stale process can be told from
// a fresh one. The linker sets it; otherwise it comes from the VCS stamp.
var Build = ""

// ReleaseKey is the public key, in standard base64, that releases are signed with
// (Ed25519, RFC 8032). The linker sets it; "" knows none.
var ReleaseKey = ""

// ReleaseURL is where releases are listed. The linker sets it; "" knows no place.
var ReleaseURL = ""

// BuildID returns Build, or what the toolchain recorded, or "unknown".
func BuildID() string {
	if Build != "" {
		return Build
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "unknown"
}

// Platform returns the operating system and architecture, as "linux/amd64".
func Platform() string { return runtime.GOOS + "/" + runtime.GOARCH }
