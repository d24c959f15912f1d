package version

import (
	"runtime"
	"testing"
)

// TestABuildHasAName: status and doctor compare builds, so there is always something
// to compare, and what the linker says counts.
func TestABuildHasAName(t *testing.T) {
	if Name == "" || Version == "" || BuildID() == "" {
		t.Errorf("%q %q %q", Name, Version, BuildID())
	}
	old := Build
	defer func() { Build = old }()
	if Build = "abc"; BuildID() != "abc" {
		t.Errorf("got %q", BuildID())
	}
	if want := runtime.GOOS + "/" + runtime.GOARCH; Platform() != want {
		t.Errorf("got %q, want %q", Platform(), want)
	}
}
