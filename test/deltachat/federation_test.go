//go:build deltachat

package deltachat

import (
	"fmt"
	"testing"

	"madmail/test/testserver"
)

// TestTwoRelays lets real clients of two servers talk, by each transport alone,
// and while a server is away.
func TestTwoRelays(t *testing.T) {
	for _, transport := range []string{"smtp", "https", "http"} {
		t.Run(transport, func(t *testing.T) {
			one, two := testserver.NewAt(t, "127.0.0.1", ""), testserver.NewAt(t, "127.0.0.2", "")
			lead := func(from, to *testserver.Server) {
				port := map[string]int{"smtp": to.SMTP, "http": to.HTTP, "https": to.HTTPS}[transport]
				from.Command("endpoint-cache", "set", to.Host, fmt.Sprintf("%s://%s:%d", transport, to.Host, port))
			}
			lead(one, two)
			lead(two, one)
			c := startCore(t)
			alice := c.join(one.Link("alicealice", "[127.0.0.1]", password), "Alice")
			bob := c.join(two.Link("bobbobbob", "[127.0.0.2]", password), "Bob")
			carol := c.join(two.Link("carolcarol", "[127.0.0.2]", password), "Carol")
			meet(alice, bob, nil, false)
			ab, ba := alice.chatWith(bob), bob.chatWith(alice)

			for i := range 10 {
				am, bm := alice.mark(), bob.mark()
				alice.say(ab, fmt.Sprintf("over there, %d", i))
				_, m := bob.receive(bm, fmt.Sprintf("over there, %d", i))
				bob.say(ba, fmt.Sprintf("and back, %d", i))
				_, n := alice.receive(am, fmt.Sprintf("and back, %d", i))
				if !m.ShowPadlock || !n.ShowPadlock {
					t.Error("not encrypted")
				}
			}

			// A file of 12 MB.
			alice.file(ab, bob, 12_000_000)

			// A group over both servers: one entry for both members over there.
			meet(alice, carol, nil, false)
			var group int
			alice.call(&group, "create_group_chat", alice.id, "both sides", false)
			for _, p := range []*person{bob, carol} {
				var contact int
				alice.call(&contact, "lookup_contact_id_by_addr", alice.id, p.address)
				alice.call(nil, "add_contact_to_chat", alice.id, group, contact)
			}
			bm, cm := bob.mark(), carol.mark()
			alice.say(group, "hello to all of you")
			bob.receive(bm, "hello to all of you")
			carol.receive(cm, "hello to all of you")

			// The other server is away for a while; then everything arrives.
			two.Stop()
			alice.say(ab, "said while you were away")
			am := alice.mark()
			bm = bob.mark()
			two.Start()
			one.Command("queue", "retry")
			c.call(nil, "maybe_network")
			bob.receive(bm, "said while you were away")
			bob.sayOnce(ba, "got it")
			alice.receive(am, "got it")
		})
	}
}
