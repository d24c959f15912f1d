package cli

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"madmail/internal/fault"
	"madmail/internal/ops"
	"madmail/internal/units"
)

// sample is what the monitor shows of one moment. Rates are null in the first one.
type sample struct {
	Time        string   `json:"time"`
	Connections int      `json:"connections"`
	IMAP        int      `json:"imap"`
	Idle        int64    `json:"imap_idle"`
	SMTP        int      `json:"smtp"`
	In          *float64 `json:"messages_in_per_second"`  // taken from users and servers
	Out         *float64 `json:"messages_out_per_second"` // brought to other servers
	Stored      *float64 `json:"copies_per_second"`
	Refused     *float64 `json:"refused_per_second"`
	Queue       int      `json:"queue"`
	Trouble     int      `json:"unreachable_servers"`
	Storage     int64    `json:"storage_bytes"`
	Messages    int64    `json:"storage_messages"`
	Accounts    int      `json:"accounts"`
	Relays      int64    `json:"turn_allocations"`
	Memory      int64    `json:"memory_bytes"`

	// The names of the second version.
	Conns      map[string]int `json:"conns"`
	Completed  int64          `json:"completed_total"`
	Aborted    int64          `json:"aborted_total"`
	PerSecond  *float64       `json:"messages_per_second"`
	AbortedPer *float64       `json:"aborted_per_second"`
	QueueLen   int            `json:"queue_length"`

	at                             time.Time
	accepted, sent, copies, denied int64
}

func (s *shell) monitor() *cobra.Command {
	var every string
	var count int
	c := &cobra.Command{Use: "monitor", Short: "Watch the running server: sessions, messages a second, queue, storage, memory", Args: cobra.NoArgs,
		Example: "  madmail monitor\n  madmail monitor --interval 10s --count 6 --json",
		RunE: func(*cobra.Command, []string) error {
			if _, err := strconv.ParseUint(every, 10, 31); err == nil {
				every += "s" // the second version counts seconds
			}
			interval, err := time.ParseDuration(every)
			if err != nil || interval < 100*time.Millisecond || count < 0 {
				return fault.New(fault.Invalid, "the interval is at least 100ms, the count at least 0")
			}
			stop := make(chan os.Signal, 1)
			signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
			defer signal.Stop(stop)
			tick := time.NewTicker(interval)
			defer tick.Stop()
			f, isFile := s.out.(*os.File)
			live := isFile && !s.json && term.IsTerminal(int(f.Fd()))
			var last *sample
			for n := 1; ; n++ {
				now, err := s.sample(last)
				if err != nil {
					return err
				}
				if err := s.show(now, live, n == 1); err != nil {
					return err
				}
				if last = now; n == count {
					return nil
				}
				select {
				case <-stop:
					return nil
				case <-tick.C:
				}
			}
		}}
	c.Flags().StringVar(&every, "interval", "2s", "`time` between two samples; a number alone is seconds")
	c.Flags().IntVar(&count, "count", 0, "so many `samples`; 0 goes on until interrupted")
	// Version 2 reads the metrics; the control socket needs no address.
	c.Flags().String("addr", "", "no effect: the server is asked by its control socket")
	_ = c.Flags().MarkHidden("addr")
	return c
}

// sample asks the server.
func (s *shell) sample(last *sample) (*sample, error) {
	var st ops.Status
	if err := s.call("status", nil, &st); err != nil {
		return nil, err
	}
	if !st.Running {
		return nil, fault.WithHint(fault.New(fault.NotFound, "no server is running"), `"madmail run" starts one`)
	}
	var q ops.QueueStatus
	if err := s.call("queue.status", nil, &q); err != nil {
		return nil, err
	}
	var t map[string][]ops.Traffic
	if err := s.call("federation.status", nil, &t); err != nil {
		return nil, err
	}
	x := &sample{at: time.Now(), Queue: q.Count, Accounts: st.RegisteredUsers, Idle: st.Counters["imap_idle"], Storage: st.Counters["storage_bytes"],
		Messages: st.Counters["storage_messages"], Relays: st.Counters["turn_allocations"], Memory: st.Counters["memory_bytes"],
		accepted: st.Counters["messages_accepted"], copies: st.Counters["copies_stored"], denied: st.Counters["messages_refused"]}
	x.Time = x.at.UTC().Format(time.RFC3339)
	x.Conns = map[string]int{"imap": 0, "smtp": 0, "submission": 0}
	for _, v := range st.Services {
		x.Connections += v.Connections
		switch v.Name {
		case "IMAP":
			x.IMAP = v.Connections
		case "SMTP", "Submission":
			x.SMTP += v.Connections
		default:
			continue
		}
		x.Conns[strings.ToLower(v.Name)] = v.Connections
	}
	x.Conns["total"] = x.IMAP + x.SMTP
	x.Completed, x.Aborted, x.QueueLen = x.accepted, x.denied, x.Queue
	for _, p := range t["traffic"] {
		x.sent += p.Delivered
		if p.Trouble != "" {
			x.Trouble++
		}
	}
	if last != nil {
		took := x.at.Sub(last.at).Seconds()
		rate := func(now, before int64) *float64 {
			r := float64(max(now-before, 0)) / took // a restart begins from 0
			return &r
		}
		x.In, x.Out, x.Stored, x.Refused = rate(x.accepted, last.accepted), rate(x.sent, last.sent), rate(x.copies, last.copies), rate(x.denied, last.denied)
		x.PerSecond, x.AbortedPer = x.In, x.Refused
	}
	return x, nil
}

// pace is a rate for people.
func pace(r *float64) string {
	if r == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f", *r)
}

// show prints a sample: a line of its own, or on a terminal in the place of the last.
func (s *shell) show(x *sample, live, first bool) error {
	if !live {
		return s.result("monitor", "", x, func(w io.Writer) {
			if first {
				fmt.Fprintln(w, "TIME\tIMAP\tIDLE\tSMTP\tIN/S\tOUT/S\tQUEUE\tSTORED\tMEMORY")
			}
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%d\t%s\t%s\n", x.Time, x.IMAP, x.Idle, x.SMTP, pace(x.In), pace(x.Out), x.Queue, units.FormatSize(x.Storage), units.FormatSize(x.Memory))
		})
	}
	var b strings.Builder
	if !first {
		b.WriteString("\x1b[10A") // up over what was drawn last
	}
	for _, l := range [][2]string{
		{"madmail", x.Time},
		{"Sessions", fmt.Sprintf("IMAP %d (%d idle), SMTP %d", x.IMAP, x.Idle, x.SMTP)},
		{"Taken in", pace(x.In) + " messages a second, " + pace(x.Refused) + " refused"},
		{"Stored", pace(x.Stored) + " copies a second"},
		{"Sent out", pace(x.Out) + " messages a second"},
		{"Queue", fmt.Sprintf("%d waiting, %d server(s) not reached", x.Queue, x.Trouble)},
		{"Storage", fmt.Sprintf("%s in %d messages", units.FormatSize(x.Storage), x.Messages)},
		{"Accounts", fmt.Sprint(x.Accounts)},
		{"Calls", fmt.Sprintf("%d relays", x.Relays)},
		{"Memory", units.FormatSize(x.Memory)},
	} {
		fmt.Fprintf(&b, "\x1b[2K%-10s %s\n", l[0], l[1])
	}
	_, err := io.WriteString(s.out, b.String())
	return err
}
