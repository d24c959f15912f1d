package db

import (
	"testing"
	"time"
)

// TestCacheAndTimeOutAreThoseOfTheFile: sqlite3_cache_size and sqlite3_busy_timeout of
// the block files.
func TestCacheAndTimeOutAreThoseOfTheFile(t *testing.T) {
	d, err := Open(t.Context(), Options{StateDir: t.TempDir(), Cache: "-4321", Busy: 7 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(t.Context())
	for name, want := range map[string]int{"cache_size": -4321, "busy_timeout": 7000} {
		var got int
		if err := d.readers.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&got); err != nil || got != want {
			t.Errorf("%s of a reader is %d, want %d: %v", name, got, want, err)
		}
	}
}
