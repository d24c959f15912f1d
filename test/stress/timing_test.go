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

// TestTheWaitDoesNotTellWhoExists compares how long answers take for somebody and
// for nobody (Welch's test), one after the other so that both meet the same machine.
func TestTheWaitDoesNotTellWhoExists(t *testing.T) {
	srv := testserver.New(t, "")
	if err := target(srv).Ensure("victimno%d", 1); err != nil {
		t.Fatal(err)
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
			t.Fatal(err)
		}
		r.Header["X-Mail-From"], r.Header["X-Mail-To"] = []string{"a@[192.0.2.1]"}, []string{to + "@[127.0.0.1]"}
		start := time.Now()
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != "OK" {
			t.Fatalf("%s: %d %q, %v", to, resp.StatusCode, body, err)
		}
		return time.Since(start)
	}
	const warm, n = 100, 1000
	var sum, squares [2]float64
	for i := range warm + n {
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
		mean[k] = sum[k] / n
		variance[k] = (squares[k] - n*mean[k]*mean[k]) / (n - 1)
	}
	welch := (mean[0] - mean[1]) / math.Sqrt(variance[0]/n+variance[1]/n)
	t.Logf("%.3f ms for somebody, %.3f ms for nobody, deviations %.3f and %.3f, t = %.2f", mean[0], mean[1], math.Sqrt(variance[0]), math.Sqrt(variance[1]), welch)
	if math.Abs(welch) > 4 && math.Abs(mean[0]-mean[1]) > mean[0]/10 {
		t.Errorf("the means differ: t = %.2f", welch)
	}
}
