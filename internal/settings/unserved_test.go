package settings

import (
	"strings"
	"testing"
)

// TestNothingPromisesWhatIsNotServed: the text of a setting that is only kept says so.
func TestNothingPromisesWhatIsNotServed(t *testing.T) {
	for _, e := range Entries() {
		if strings.HasPrefix(string(e.Key), "__HTTP_PROXY_") && (!e.Unserved || !strings.HasPrefix(e.Doc, "Kept")) {
			t.Errorf("%s: %q, unserved %v", e.Key, e.Doc, e.Unserved)
		}
		if strings.HasPrefix(e.Doc, "Kept") && !e.Unserved {
			t.Errorf("%s is said to be kept, and is not marked", e.Key)
		}
	}
}
