package throttle

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"madmail/internal/fault"
)

func TestRulesAreThoseOfTheFirstVersion(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "[]",
		"all rate 20 1s; all concurrency 5": "[{all 20 1s} {all 5 0s}]",
		"ip rate 10":                        "[{ip 10 1s}]",
		"source rate 0 1h":                  "[]",
		"destination concurrency 3;":        "[{destination 3 0s}]",
	} {
		got, err := Parse(text)
		if err != nil || fmt.Sprint([]Rule(got)) != want {
			t.Errorf("%q: %v, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"all", "all rate", "everybody rate 1 1s", "all rate -1 1s", "all rate x", "all rate 1 0s", "all rate 1 1s 2", "all concurrency 1 1s", "all speed 1", "all rate 99999999999"} {
		if got, err := Parse(text); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestMessagesInProgressAreCountedByWhoseTheyAre(t *testing.T) {
	now := time.Unix(1e9, 0)
	x := New(Rules{{IP, 1, 0}, {All, 2, 0}})
	end, ok := x.Begin(IP, "a", now)
	if !ok {
		t.Fatal("the first message does not pass")
	}
	if _, ok := x.Begin(IP, "a", now); ok {
		t.Error("a second message of one address passes")
	}
	if _, ok := x.Begin(IP, "b", now); !ok {
		t.Error("a message of another address does not pass")
	}
	if _, ok := x.Begin(Source, "a", now); !ok {
		t.Error("a scope without rules counts")
	}
	end()
	if _, ok := x.Begin(IP, "a", now); !ok {
		t.Error("a message does not pass after the first has ended")
	}
	if len(x.now) != 2 || len(x.next) != 0 {
		t.Errorf("the tables hold %v and %v", x.now, x.next)
	}
}

func TestRatesCountBeginnings(t *testing.T) {
	now := time.Unix(1e9, 0)
	x := New(Rules{{Source, 2, time.Minute}})
	var got []bool
	for range 3 {
		end, ok := x.Begin(Source, "a.example.org", now)
		if got = append(got, ok); ok {
			end()
		}
	}
	_, ok := x.Begin(Source, "a.example.org", now.Add(31*time.Second))
	if got = append(got, ok); !slices.Equal(got, []bool{true, true, false, true}) {
		t.Errorf("passes: %v", got)
	}
	if x.Full(Source, "b.example.org", now) || !x.Full(Source, "a.example.org", now) || x.Full(Source, "a.example.org", now.Add(2*time.Minute)) || (*Throttle)(nil).Full(All, "", now) {
		t.Error("who may begin is not who begins")
	}
	if _, ok := (*Throttle)(nil).Begin(All, "", now); !ok {
		t.Error("no rules let nothing pass")
	}
}

func TestTheTableOfRatesIsBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	x := New(Rules{{IP, 1, time.Hour}})
	for i := range maxKeys {
		x.Begin(IP, fmt.Sprint(i), now)
	}
	if _, ok := x.Begin(IP, "one more", now); ok || len(x.next) != maxKeys {
		t.Errorf("the table holds %d, one more passes: %v", len(x.next), ok)
	}
	if _, ok := x.Begin(IP, "one more", now.Add(2*time.Hour)); !ok || len(x.next) != 1 {
		t.Errorf("the table holds %d, one more passes later: %v", len(x.next), ok)
	}
}

func TestWhoWaitsPassesWhenThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := New(Rules{{All, 1, 0}, {Source, 1, 2 * time.Second}})
		end, err := x.Wait(t.Context(), All, "")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		time.AfterFunc(time.Second, end)
		if _, err := x.Wait(t.Context(), All, ""); err != nil || time.Since(begin) != time.Second {
			t.Errorf("the second message waited %v: %v", time.Since(begin), err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := x.Wait(short, All, ""); !fault.Is(err, fault.Busy) {
			t.Errorf("a third message: %v", err)
		}
		begin = time.Now()
		for range 3 {
			if _, err := x.Wait(t.Context(), Source, "a"); err != nil {
				t.Error(err)
			}
		}
		if d := time.Since(begin); d != 4*time.Second {
			t.Errorf("three messages at one in two seconds took %v", d)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("all rate 20 1s; ip concurrency 5")
	f.Fuzz(func(t *testing.T, s string) {
		rules, err := Parse(s)
		if err != nil {
			return
		}
		for _, r := range rules {
			if r.N <= 0 || r.Per < 0 || r.Scope >= scopes {
				t.Errorf("%q: %v", s, r)
			}
		}
	})
}
