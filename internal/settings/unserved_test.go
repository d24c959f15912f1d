package settings

import (
	"strings"
	"testing"
)

// TestNothingPromisesWhatIsNotServed: the text of a setting that is only kept says so,
// and what is served is not called kept.
func TestNothingPromisesWhatIsNotServed(t *testing.T) {
	for _, e := range Entries() {
		if strings.HasPrefix(e.Doc, "Kept") && !e.Unserved || (strings.HasPrefix(string(e.Key), "__ADMIN_WEB_") || strings.HasPrefix(string(e.Key), "__HTTP_PROXY_") || strings.HasPrefix(string(e.Key), "__SS_WS_")) && e.Unserved {
			t.Errorf("%s: %q, unserved %v", e.Key, e.Doc, e.Unserved)
		}
	}
}
