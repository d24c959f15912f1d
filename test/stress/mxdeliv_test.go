package stress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testserver"
)

// TestServersThatBringMailByHTTPAreBounded is about other servers that are slow, that
// send more than is allowed, and about those that are neither.
func TestServersThatBringMailByHTTPAreBounded(t *testing.T) {
	srv := testserver.New(t, "")
	if err := target(srv).Ensure("victimno%d", 1); err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	post := func(body io.Reader, length int64) (int, error) {
		r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("https://127.0.0.1:%d/mxdeliv", srv.HTTPS), body)
		if err != nil {
			return 0, err
		}
		r.ContentLength = length
		r.Header.Set("X-Mail-From", "a@[192.0.2.1]")
		r.Header.Set("X-Mail-To", "victimno0@[127.0.0.1]")
		resp, err := client.Do(r)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}
	number := 0
	good := func() {
		t.Helper()
		number++
		text := bytes.TrimSuffix(load.Message("a@[192.0.2.1]", 2000+number), []byte(".\r\n"))
		if code, err := post(bytes.NewReader(text), int64(len(text))); code != http.StatusOK || err != nil {
			t.Errorf("a good message: %d, %v", code, err)
		}
	}
	good()

	t.Run("too large", func(t *testing.T) {
		const size = 70<<20 + 1
		head := "From: <a@[192.0.2.1]>\r\n\r\n"
		for _, length := range []int64{size, -1} { // announced, and found out
			before := rss(t, srv)
			pr, pw := io.Pipe()
			go func() { // ends when the request does
				_, err := io.WriteString(pw, head)
				chunk := bytes.Repeat([]byte("0123456789abcde\n"), 4096)
				for n := len(head); err == nil && n < size; n += len(chunk) {
					_, err = pw.Write(chunk[:min(len(chunk), size-n)])
				}
				pw.Close()
			}()
			code, err := post(pr, length)
			pr.Close()
			// Told early, the connection may be gone before all was sent.
			if code != http.StatusRequestEntityTooLarge && !(length > 0 && err != nil) {
				t.Errorf("length %d: %d, %v", length, code, err)
			}
			if after := rss(t, srv); after > before+40 { // it would be 70; the collector lets 24 stand
				t.Errorf("length %d: resident memory went from %d to %d MiB", length, before, after)
			}
		}
	})

	t.Run("a thousand slow ones", func(t *testing.T) {
		before := rss(t, srv)
		for i := range 1000 {
			c, _ := conn(t, srv.HTTP, false)
			fmt.Fprintf(c, "POST /mxdeliv HTTP/1.1\r\nHost: x\r\nX-Mail-From: a@[192.0.2.1]\r\nX-Mail-To: victimno0@[127.0.0.1]\r\nContent-Length: %d\r\n\r\n%s",
				100_000+i, strings.Repeat("X: y\r\n", 100))
		}
		// The last of them is being read when one behind it has its answer.
		c, br := conn(t, srv.HTTP, false)
		fmt.Fprint(c, "POST /mxdeliv HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%+v, %v", resp, err)
		}
		for range 20 {
			good()
		}
		if after := rss(t, srv); after > before+100 {
			t.Errorf("resident memory went from %d to %d MiB", before, after)
		}
	})
	good()

	t.Run("a thousand recipients", func(t *testing.T) {
		var fields strings.Builder
		for i := range 999 {
			fmt.Fprintf(&fields, "x-mail-to: nobody%d%s@[127.0.0.1]\r\n", i, strings.Repeat("x", 40))
		}
		fields.WriteString("x-mail-to: victimno0@[127.0.0.1]\r\n")
		text := bytes.TrimSuffix(load.Message("a@[192.0.2.1]", 3000), []byte(".\r\n"))
		for _, more := range []string{"", "x-mail-to: onemore@[127.0.0.1]\r\n"} {
			c, br := conn(t, srv.HTTP, false)
			fmt.Fprintf(c, "POST /mxdeliv/ HTTP/1.1\r\nhost: x\r\n%s%scontent-length: %d\r\n\r\n%s", fields.String(), more, len(text), text)
			want := http.StatusOK
			if more != "" {
				want = http.StatusBadRequest
			}
			if resp, err := http.ReadResponse(bufio.NewReader(br), nil); err != nil || resp.StatusCode != want {
				t.Errorf("%d recipients more: %+v, %v", len(more), resp, err)
			}
		}
	})

	t.Run("a thousand recipients by HTTP/2, of nobody, without a length", func(t *testing.T) {
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		text := bytes.TrimSuffix(load.Message("a@[192.0.2.1]", 3500), []byte(".\r\n"))
		r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("https://127.0.0.1:%d/mxdeliv", srv.HTTPS), io.MultiReader(bytes.NewReader(text)))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 999 {
			r.Header.Add("X-Mail-To", fmt.Sprintf("nobody%d%s@[127.0.0.1]", i, strings.Repeat("x", 40)))
		}
		r.Header.Add("X-Mail-To", "victimno0@[127.0.0.1]")
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
			t.Errorf("%s %s", resp.Proto, resp.Status)
		}
		reader, err := target(srv).Login("victimno0")
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		if _, err := reader.Do("SELECT INBOX"); err != nil {
			t.Fatal(err)
		}
		list, err := reader.Texts()
		if err != nil || len(list) == 0 || !strings.HasSuffix(list[len(list)-1], string(text)) {
			t.Errorf("%d messages, %v", len(list), err)
		}
	})
}
