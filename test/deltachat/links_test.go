//go:build deltachat

package deltachat

import (
	"fmt"
	"os"
	"testing"
	"time"

	"madmail/test/testserver"
)

// TestTwoLinks lets clients of two login links talk both ways and tells how long each
// message took: make test-dclogin gives it the links of real servers, DCLOGIN1 and
// DCLOGIN2 (REQ-44). Without them it makes two servers.
func TestTwoLinks(t *testing.T) {
	links := [2]string{os.Getenv("DCLOGIN1"), os.Getenv("DCLOGIN2")}
	if links[0] == "" || links[1] == "" {
		one, two := testserver.NewAt(t, "127.0.0.1", ""), testserver.NewAt(t, "127.0.0.2", "")
		one.Command("endpoint-cache", "set", two.Host, fmt.Sprintf("smtp://%s:%d", two.Host, two.SMTP))
		two.Command("endpoint-cache", "set", one.Host, fmt.Sprintf("smtp://%s:%d", one.Host, one.SMTP))
		links = [2]string{one.Link("linkedone", "[127.0.0.1]", password), two.Link("linkedtwo", "[127.0.0.2]", password)}
	}
	c := startCore(t)
	alice, bob := c.join(links[0], "One"), c.join(links[1], "Two")
	began := time.Now()
	meet(alice, bob, nil, false)
	t.Logf("secure join took %v", time.Since(began).Round(time.Millisecond))
	for i := range 3 {
		for _, way := range [][2]*person{{alice, bob}, {bob, alice}} {
			text := fmt.Sprintf("%d of %s at %d", i, way[0].address, began.UnixNano())
			mark, at := way[1].mark(), time.Now()
			way[0].say(way[0].chatWith(way[1]), text)
			_, m := way[1].receive(mark, text)
			t.Logf("%s to %s took %v", way[0].address, way[1].address, time.Since(at).Round(time.Millisecond))
			if !m.ShowPadlock {
				t.Error("not encrypted")
			}
		}
	}
}
