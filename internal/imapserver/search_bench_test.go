package imapserver

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkSearch has a mailbox of 5000 messages of 4 KiB looked through, from
// the index, from headers, and whole.
func BenchmarkSearch(b *testing.B) {
	d := build(b, STARTTLS, nil)
	body := strings.Repeat("all work and no play makes mail a dull read\r\n", 90)
	for i := range 5000 {
		d.deliver(b, alice, fmt.Sprintf("From: <user%d@x.org>\r\nSubject: Re: subject %d\r\nDate: Mon, 1 Jan 2024 10:%02d:00 +0000\r\nMessage-ID: <%d@x>\r\nReferences: <%d@x>\r\n\r\n%s", i%50, i%500, i%60, i, i/2, body))
	}
	c := d.dial(b)
	c.login(alice)
	c.do("s", "SELECT INBOX")
	for _, cmd := range []string{
		"SEARCH RETURN (COUNT) UNSEEN LARGER 100", "SEARCH RETURN (COUNT) SUBJECT nowhere", "SEARCH RETURN (COUNT) TEXT nowhere",
		"SORT RETURN (COUNT) (SUBJECT DATE) UTF-8 ALL", "THREAD REFERENCES UTF-8 ALL", "FETCH 1:* (PREVIEW)",
	} {
		b.Run(strings.ReplaceAll(cmd, " ", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.do("x", cmd)
			}
		})
	}
}
