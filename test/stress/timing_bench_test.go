package stress

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testserver"
)

// BenchmarkTheWaitForSomebodyAndNobody measures how long answers take for somebody and
// for nobody, one after the other so that both meet the same machine, and t of Welch's
// test: over 4 on a quiet machine, one can be told from the other.
func BenchmarkTheWaitForSomebodyAndNobody(b *testing.B) {
	srv := testserver.New(b, "")
	if err := target(srv).Ensure("victimno%d", 1); err != nil {
		b.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	text := bytes.TrimSuffix(load.Message("a@[192.0.2.1]", 1500), []byte(".\r\n"))
	at := bytes.Index(text, []byte("04478418"))
	post := func(i int, to string) time.Duration {
		copy(text[at:], fmt.Sprintf("%08x", i)) // a repeated message is stored once
		r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("https://127.0.0.1:%d/mxdeliv", srv.HTTPS), bytes.NewReader(text))
		if err != nil {
			b.Fatal(err)
		}
		r.Header["X-Mail-From"], r.Header["X-Mail-To"] = []string{"a@[192.0.2.1]"}, []string{to + "@[127.0.0.1]"}
		start := time.Now()
		resp, err := client.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != "OK" {
			b.Fatalf("%s: %d %q, %v", to, resp.StatusCode, body, err)
		}
		return time.Since(start)
	}
	const warm = 100
	n := max(b.N, 2)
	var sum, squares [2]float64
	for i := range warm + n {
		if i == warm {
			b.ResetTimer()
		}
		for k, to := range []string{"victimno0", "nobodyhere"} {
			d := post(2*i+k, to).Seconds() * 1000
			if i >= warm {
				sum[k] += d
				squares[k] += d * d
			}
		}
	}
	var mean, variance [2]float64
	for k := range 2 {
		mean[k] = sum[k] / float64(n)
		variance[k] = (squares[k] - float64(n)*mean[k]*mean[k]) / float64(n-1)
	}
	b.ReportMetric(mean[0], "ms-somebody")
	b.ReportMetric(mean[1], "ms-nobody")
	b.ReportMetric((mean[0]-mean[1])/math.Sqrt((variance[0]+variance[1])/float64(n)), "t")
}
