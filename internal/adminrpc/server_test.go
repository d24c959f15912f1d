package adminrpc

import (
	"maps"
	"testing"

	"madmail/internal/ops"
)

// TestTheSumOfOtherServersIsThatOfThePage: the page counts the servers of its list in the
// same way, and shows both.
func TestTheSumOfOtherServersIsThatOfThePage(t *testing.T) {
	got := summary([]ops.Traffic{
		{Domain: "waits.example", Queued: 2}, // of which nothing is known
		{Domain: "asks.example", Inbound: 3},
		{Domain: "fast.example", Delivered: 1, OverTLS: 1}, // in no time that could be measured
		{Domain: "well.example", Delivered: 4, OverTLS: 4, MeanLatency: 100},
		{Domain: "half.example", Delivered: 3, OverSMTP: 3, Failed: 7, MeanLatency: 301},
		{Domain: "bad.example", Delivered: 2, OverSMTP: 2, Failed: 5, MeanLatency: 200},
	})
	if got["outbound"] != int64(10) || got["inbound"] != int64(3) || got["queued"] != int64(2) || got["expired"] != int64(12) || got["mean_latency_ms"] != 200 {
		t.Errorf("%v", got)
	}
	if health := got["health"].(map[string]int); !maps.Equal(health, map[string]int{"perfect": 3, "federated": 1, "bad": 1}) {
		t.Errorf("%v", health)
	}
}
