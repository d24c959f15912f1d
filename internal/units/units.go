// Package units reads and prints sizes, durations, ports and booleans as
// operators write them. It knows text and numbers, no setting.
package units

import (
	"math"
	"strconv"
	"strings"
	"time"

	"madmail/internal/fault"
)

var sizes = []struct {
	suffix string
	n      int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}, {"B", 1}, {"b", 1}, {"", 1},
}

// ParseSize reads a number of bytes, such as "70M" or "3M 5K".
func ParseSize(s string) (int64, error) {
	fields := strings.Fields(s)
	if len(fields) == 0 {
		return 0, fault.New(fault.Invalid, "a size is missing")
	}
	var total int64
	for _, f := range fields {
		digits := strings.TrimRight(f, "TGMKiBb")
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil {
			return 0, fault.Newf(fault.Invalid, "%q is not a size", s)
		}
		unit := int64(0)
		for _, u := range sizes {
			if f[len(digits):] == u.suffix {
				unit = u.n
				break
			}
		}
		if unit == 0 || int64(n) > (math.MaxInt64-total)/unit {
			return 0, fault.Newf(fault.Invalid, "%q is not a size", s)
		}
		total += int64(n) * unit
	}
	return total, nil
}

// FormatSize prints n bytes with the largest unit that divides it.
func FormatSize(n int64) string {
	for _, u := range sizes[4:8] {
		if n != 0 && n%u.n == 0 {
			return strconv.FormatInt(n/u.n, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10)
}

// ParseDuration reads Go durations, days ("30d") and bare seconds.
func ParseDuration(s string) (time.Duration, error) {
	fields := strings.Fields(s)
	if len(fields) == 0 {
		return 0, fault.New(fault.Invalid, "a duration is missing")
	}
	var total time.Duration
	for _, f := range fields {
		d, err := parseDuration(f)
		if err != nil || d < 0 || total > math.MaxInt64-d {
			return 0, fault.Newf(fault.Invalid, "%q is not a duration", s)
		}
		total += d
	}
	return total, nil
}

func parseDuration(f string) (time.Duration, error) {
	unit, digits := time.Duration(0), f
	if n, ok := strings.CutSuffix(f, "d"); ok {
		unit, digits = 24*time.Hour, n
	} else if strings.Trim(f, "0123456789") == "" {
		unit = time.Second
	}
	if unit == 0 {
		return time.ParseDuration(f)
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > int64(math.MaxInt64/unit) {
		return 0, fault.New(fault.Invalid, "not a duration")
	}
	return time.Duration(n) * unit, nil
}

// FormatDuration prints d in days when it is whole days, else as Go does.
func FormatDuration(d time.Duration) string {
	if day := 24 * time.Hour; d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return d.String()
}

// ParsePort reads a port number, 1 to 65535.
func ParsePort(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fault.Newf(fault.Invalid, "%q is not a port", s)
	}
	return int(n), nil
}

// ParseBool reads the words for yes and no, in any case.
func ParseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "true", "t", "yes", "y", "on", "enable", "enabled":
		return true, nil
	case "0", "false", "f", "no", "n", "off", "disable", "disabled":
		return false, nil
	}
	return false, fault.Newf(fault.Invalid, "%q is neither yes nor no", s)
}
