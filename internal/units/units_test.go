package units

import (
	"math"
	"testing"
	"time"

	"madmail/internal/fault"
)

func TestSizes(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1": 1, "1024": 1024, "5B": 5, "5b": 5, "3K": 3 << 10, "70M": 70 << 20, "1G": 1 << 30, "2T": 2 << 40,
		"1KiB": 1 << 10, "1MiB": 1 << 20, "1GiB": 1 << 30, "1TiB": 1 << 40,
		"3M 5K": 3<<20 + 5<<10, " 3M\t5K ": 3<<20 + 5<<10, "007": 7, "0G": 0,
		"9223372036854775807": math.MaxInt64, "8388607T": 8388607 << 40,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", " ", "M", "K5", "1 gig", "1gb", "1GB", "70m", "3k", "-1", "-1M", "+1", "1.5G", "1,5G", "1e3", "0x10", "1_000", "32M5K", "3MM", "3Mi",
		"3iB", "3 M", "٣M", "∞", "NaN", "9223372036854775808", "8388608T", "9223372036854775807 1", "8388607T 1T", "99999999999999999999999", "1\x00",
	} {
		if got, err := ParseSize(in); !fault.Is(err, fault.Invalid) {
			t.Errorf("ParseSize(%q) = %d, %v; want fault.Invalid", in, got, err)
		}
	}
}

func TestSizesArePrintedWithTheLargestUnit(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 1: "1", 1023: "1023", 1024: "1K", 1025: "1025", 1536: "1536", 70 << 20: "70M", 1 << 30: "1G", 3 << 40: "3T", 5 << 30: "5G",
		1<<20 + 1<<10: "1025K", math.MaxInt64: "9223372036854775807",
	} {
		if got := FormatSize(n); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestDurations(t *testing.T) {
	const day = 24 * time.Hour
	for in, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "15": 15 * time.Second, "300ms": 300 * time.Millisecond, "1h30m": 90 * time.Minute, "72h": 72 * time.Hour,
		"1h 5m": 65 * time.Minute, "30d": 30 * day, "0d": 0, "1d 12h": 36 * time.Hour, "1.5h": 90 * time.Minute, "86400": day,
		"106751d": 106751 * day,
	} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", " ", "d", "h", "-1", "-5s", "-1d", "1h -5m", "1.5d", "d30", "30 d", "1d12h", "30D", "1w", "1y", "forever", "1_0d", "0x1d",
		"106752d", "106751d 1d", "9223372037", "99999999999999999999", "2562047h 2562047h", "٣d", "NaN", "1h\x00",
	} {
		if got, err := ParseDuration(in); !fault.Is(err, fault.Invalid) {
			t.Errorf("ParseDuration(%q) = %v, %v; want fault.Invalid", in, got, err)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", day: "1d", 720 * time.Hour: "30d", 36 * time.Hour: "36h0m0s", time.Minute: "1m0s"} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestPorts(t *testing.T) {
	for in, want := range map[string]int{"1": 1, "25": 25, "65535": 65535, "0993": 993} {
		if got, err := ParsePort(in); err != nil || got != want {
			t.Errorf("ParsePort(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "65536", "-1", "+25", " 25", "25 ", "25x", "0x19", "1e3", "smtp", "²⁵", "99999999999999999999"} {
		if got, err := ParsePort(in); !fault.Is(err, fault.Invalid) {
			t.Errorf("ParsePort(%q) = %d, %v; want fault.Invalid", in, got, err)
		}
	}
}

func TestSwitches(t *testing.T) {
	for want, words := range map[bool][]string{
		true:  {"1", "true", "t", "yes", "y", "on", "enable", "enabled", "TRUE", "On", "YES"},
		false: {"0", "false", "f", "no", "n", "off", "disable", "disabled", "FALSE", "Off", "No"},
	} {
		for _, w := range words {
			if got, err := ParseBool(w); err != nil || got != want {
				t.Errorf("ParseBool(%q) = %v, %v; want %v", w, got, err, want)
			}
		}
	}
	for _, in := range []string{"", " ", "2", "-1", "tru", "yess", " yes", "yes ", "oui", "null", "ENABLE D", "ｏｎ"} {
		if _, err := ParseBool(in); !fault.Is(err, fault.Invalid) {
			t.Errorf("ParseBool(%q): %v, want fault.Invalid", in, err)
		}
	}
}

func FuzzUnits(f *testing.F) {
	for _, s := range []string{"", "70M", "3M 5K", "1h 5m", "30d", "106751d 1d", "9223372036854775807T", "25", "on", "\x00", "-0", "٣M"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseSize(s); err == nil {
			if again, err := ParseSize(FormatSize(n)); n < 0 || err != nil || again != n {
				t.Errorf("%q is %d, printed %q, read as %d, %v", s, n, FormatSize(n), again, err)
			}
		}
		if d, err := ParseDuration(s); err == nil {
			if again, err := ParseDuration(FormatDuration(d)); d < 0 || err != nil || again != d {
				t.Errorf("%q is %d, printed %q, read as %d, %v", s, d, FormatDuration(d), again, err)
			}
		}
		if p, err := ParsePort(s); err == nil && (p < 1 || p > 65535) {
			t.Errorf("%q is port %d", s, p)
		}
		_, _ = ParseBool(s)
	})
}
