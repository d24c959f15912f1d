package maildir

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"madmail/internal/mailbox"
)

// onDisk delivers messages and reopens the store, so that each has its file.
func onDisk(t *testing.T, texts ...string) (*Store, mailbox.Box, string) {
	t.Helper()
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	a := inbox(t, "a@x.org")
	for _, text := range texts {
		deliver(t, s, text, a)
	}
	closeStore(t, s)
	return open(t, Options{Dir: dir}), a, filepath.Join(dir, "mail", "a@x.org", "Maildir")
}

func opened(t *testing.T, s *Store, b mailbox.Box, uid mailbox.UID) mailbox.Content {
	t.Helper()
	c, err := s.Open(t.Context(), b, uid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestSmallMessagesAreReadWhenOpened(t *testing.T) {
	texts := []string{"a", strings.Repeat("b", smallest), strings.Repeat("c", smallest+1)}
	s, a, _ := onDisk(t, texts...)
	var list []mailbox.Content
	for i, text := range texts {
		c := opened(t, s, a, mailbox.UID(i+1))
		if _, atOnce := c.(*smallContent); atOnce != (len(text) <= smallest) {
			t.Errorf("%d octets: read at once: %v", len(text), atOnce)
		}
		list = append(list, c)
	}
	if _, err := s.Expunge(t.Context(), a, mailbox.All(), false); err != nil {
		t.Fatal(err)
	}
	for i, c := range list {
		got, err := io.ReadAll(io.NewSectionReader(c, 0, 1<<20))
		if err != nil || string(got) != texts[i] || c.Size() != int64(len(texts[i])) {
			t.Errorf("after an expunge message %d has %d octets of %d, error %v", i+1, len(got), len(texts[i]), err)
		}
		if n, err := c.ReadAt(make([]byte, 1), c.Size()); n != 0 || err != io.EOF {
			t.Errorf("behind the end of message %d: %d octets, error %v", i+1, n, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.ReadAt(make([]byte, 1), 0); err == nil {
			t.Errorf("message %d is read after it was closed", i+1)
		}
	}
	// Closed twice a buffer must not be lent twice.
	small := list[0].(*smallContent)
	if err := small.Close(); err != nil || small.buf != nil {
		t.Errorf("closed again: %v", err)
	}
}

// TestAFileOfAnotherSizeIsServedAsItIs: another program wrote over a message.
func TestAFileOfAnotherSizeIsServedAsItIs(t *testing.T) {
	for _, text := range []string{"longer than it was\r\n", "less", ""} {
		s, a, dir := onDisk(t, "as it was\r\n")
		files, err := filepath.Glob(filepath.Join(dir, "new", "*"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if _, err := s.View(t.Context(), a); err != nil { // the index is read
			t.Fatal(err)
		}
		if err := os.WriteFile(files[0], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := opened(t, s, a, 1)
		got, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
		if err != nil || string(got) != text {
			t.Errorf("%q was written, %q comes, error %v", text, got, err)
		}
	}
}

func TestSmallMessagesAreNotMixedUp(t *testing.T) {
	var texts []string
	for i := range 64 {
		texts = append(texts, strings.Repeat(fmt.Sprintf("message %d\r\n", i), 1+i%16))
	}
	s, a, _ := onDisk(t, texts...)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 4 {
				for i, text := range texts {
					c, err := s.Open(t.Context(), a, mailbox.UID(i+1))
					if err != nil {
						t.Error(err)
						return
					}
					got := make([]byte, c.Size())
					if _, err := c.ReadAt(got, 0); err != nil && err != io.EOF || !bytes.Equal(got, []byte(text)) {
						t.Errorf("message %d is %.40q, error %v", i, got, err)
					}
					c.Close()
				}
			}
		})
	}
	wg.Wait()
}
