// Package doctor looks at a server as somebody would who was called at night: each
// check is one usual trouble, with what was found, the evidence, and the command to
// type next. It knows the server by the functions it is handed, and by connecting to
// it as clients do.
//
// A check changes nothing. A few have a remedy that cannot do harm, which is used when
// the operator says so.
package doctor

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/task"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	OK      Level = "ok"
	Note    Level = "note"    // worth knowing
	Warning Level = "warning" // it will break, or breaks for some
	Failure Level = "failure" // it is broken
	Unknown Level = "unknown" // could not be looked at
)

// Finding is the outcome of a check.
type Finding struct {
	Check    string `json:"check"`
	Level    Level  `json:"level"`
	Finding  string `json:"finding"`
	Evidence string `json:"evidence,omitempty"`
	Next     string `json:"next,omitempty"`  // the command to type
	Fixed    string `json:"fixed,omitempty"` // what was done about it
}

// Listener is a socket of the server.
type Listener struct {
	Service string // as in the configuration: imap_tls
	Net     string
	Addr    string
	TLS     bool
	Local   bool // bound to this machine only
}

// Page is something about a page of an operator's site. Broken ones cannot be shown.
type Page struct {
	Text   string // file, line and what it is
	Broken bool
}

// Account is one made for a check.
type Account struct{ Addr, Password string }

// Record is one that belongs into the DNS.
type Record struct {
	Name, Type, State, Error string
	Required                 bool
}

// Renewal is how certificates are ordered.
type Renewal struct {
	On       bool // this server orders them
	Failures int  // in a row
	NextTry  time.Time
	Error    string // of the last failure
	Door     error  // why an authority that asks would not be answered
}

// Facts are what a doctor asks. Functions that are nil have nothing to tell, and their
// checks are left out.
type Facts struct {
	Running   bool
	PID       int
	StateDir  string
	Hostname  string
	Listeners []Listener

	// Token returns the admin token, "disabled", or why there is none; AdminURL where
	// the API answers on this machine, "" for nowhere.
	Token    func() (string, error)
	AdminURL string
	// Registration tells whether anybody may make an account.
	Registration func() (open, jit, tokens bool)
	// Domain is that of new accounts.
	Domain address.Domain
	// NewAccount makes an account for a trial and Drop removes it.
	NewAccount func(ctx context.Context) (Account, error)
	Drop       func(ctx context.Context, a Account) error
	// Quota compares what is counted with what lies on disk, of some accounts, and
	// corrects the count.
	Quota func(ctx context.Context) (accounts, wrong int, err error)
	// Certificate is the one in use, or would be; nil when there is none yet.
	Certificate func() (leaf *x509.Certificate, selfSigned bool, err error)
	Names       []string // that the certificate has to be valid for
	// Renewal tells how certificates are ordered.
	Renewal func(ctx context.Context) Renewal
	// Zone compares the DNS with what it should say; reason is why it need not.
	Zone func(ctx context.Context) (records []Record, reason string, err error)
	// Disk tells about the file system of the state directory.
	Disk func() (total, free int64, inodes, freeInodes uint64, ok bool)
	// Secrets are files that nobody else may read.
	Secrets []string
	// Descriptors is the limit of open files, and Wanted how many may be needed.
	Descriptors func() (limit uint64, ok bool)
	Wanted      uint64
	// Logging tells whether anything is logged, and what makes it so.
	Logging func() (on bool, why string)
	// State tells why the state could not be opened.
	State func() error
	// Sockets tells why those of a server that does not run could not be opened.
	Sockets func() []error
	// Foreign are files whose owner is not that of the state directory, who is returned
	// as chown takes it.
	Foreign func() (files []string, owner string)
	// Executable is the path of the program; Running file is what this process runs.
	Executable, RunningFile string
	// Panel tells whether the operators' page is built in and switched on.
	Panel func() (built, on bool)
	// Site looks at the pages of an operator's own site; dir is "" where there is none.
	Site func() (dir string, list []Page, err error)
	// TURN tells where calls are relayed and returns credentials; on is false where they
	// are not.
	TURN func() (addr, user, password string, on bool)
	// CallWait is how long the relay for calls may take, 3 s without it: it is on this machine.
	CallWait time.Duration
	// Queue tells what waits for other servers, and which cannot be reached.
	Queue func() (waiting int, unreachable map[string]string)
	// Push tells of failures in a row, where push is on.
	Push func() (on bool, failures int)
	// Sharing tells of contact pages, where visitors may make some or there are some: how
	// many, and those that nobody can open because their names belong to something else.
	Sharing func(ctx context.Context) (on bool, links int, hidden []string, err error)
	// Configuration returns the problems of the file, and whether it is newer than
	// what the server has read.
	Configuration func() (path string, newer bool, err error)
	// Clocks are URLs whose Date is believed.
	Clocks []string
	Client *http.Client
	Now    func() time.Time
}

// check is one trouble.
type check struct {
	name string
	run  func(ctx context.Context, f *Facts) Finding
	fix  func(f *Facts) (string, error)
}

// limit bounds one check.
const limit = 30 * time.Second

// table is every check, in the order of the report.
var table = []check{
	{"server", server, nil},
	{"state", state, nil},
	{"configuration", configuration, nil},
	{"binary", binary, nil},
	{"ports", ports, nil},
	{"certificate", certificate, nil},
	{"renewal", renewal, nil},
	{"dns", zone, nil},
	{"clock", clock, nil},
	{"disk", disk, nil},
	{"files", files, fixFiles},
	{"descriptors", descriptors, nil},
	{"registration", registration, nil},
	{"client", client, nil},
	{"admin-token", adminToken, nil},
	{"panel", panel, nil},
	{"site", site, nil},
	{"quota", quota, nil},
	{"calls", calls, nil},
	{"federation", federation, nil},
	{"push", push, nil},
	{"sharing", sharing, nil},
	{"no-log", noLog, nil},
}

// Names are the checks.
func Names() (names []string) {
	for _, c := range table {
		names = append(names, c.name)
	}
	return names
}

// Run makes the checks that are named, or all, and uses remedies when fix is set. The
// order is that of the table. The error is of kind fault.Invalid for a name that is no
// check.
func Run(ctx context.Context, f Facts, only []string, fix bool) ([]Finding, error) {
	for _, name := range only {
		if !slices.ContainsFunc(table, func(c check) bool { return c.name == name }) {
			return nil, fault.WithHint(fault.Newf(fault.Invalid, "%q is no check", name), "they are "+strings.Join(Names(), ", "))
		}
	}
	if f.Now == nil {
		f.Now = time.Now
	}
	if f.CallWait == 0 {
		f.CallWait = 3 * time.Second
	}
	if f.Client == nil {
		f.Client = &http.Client{Timeout: 10 * time.Second}
	}
	found := make([]Finding, len(table))
	var g task.Group
	for i, c := range table {
		if len(only) > 0 && !slices.Contains(only, c.name) {
			continue
		}
		// A check that panics has found something, too.
		found[i] = Finding{Level: Unknown, Finding: "the check itself failed"}
		g.Go(c.name, func() {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			x := c.run(ctx, &f)
			if fix && c.fix != nil && (x.Level == Warning || x.Level == Failure) {
				done, err := c.fix(&f)
				if err != nil {
					x.Evidence = strings.TrimPrefix(x.Evidence+"; "+err.Error(), "; ")
				} else if again := c.run(ctx, &f); again.Level == OK {
					again.Fixed = done
					x = again
				}
			}
			found[i] = x
		})
	}
	if err := g.Wait(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	var list []Finding
	for i, x := range found {
		if x.Level != "" {
			x.Check = table[i].name
			list = append(list, x)
		}
	}
	return list, nil
}

// Worst is the worst level among findings; Unknown counts as a note.
func Worst(list []Finding) Level {
	rank := map[Level]int{OK: 0, Note: 1, Unknown: 1, Warning: 2, Failure: 3}
	worst := OK
	for _, f := range list {
		if rank[f.Level] > rank[worst] {
			worst = f.Level
		}
	}
	return worst
}

// leftOut is the outcome of a check that does not concern this server.
func leftOut() Finding { return Finding{} }

func server(_ context.Context, f *Facts) Finding {
	if !f.Running {
		return Finding{Level: Failure, Finding: "no server is running", Evidence: "nothing answers on the control socket of " + f.StateDir, Next: "systemctl start madmail"}
	}
	return Finding{Level: OK, Finding: "the server is running", Evidence: fmt.Sprintf("pid %d", f.PID)}
}

func state(_ context.Context, f *Facts) Finding {
	if f.State == nil {
		return leftOut()
	}
	if err := f.State(); err != nil {
		next := fault.HintOf(err)
		if next == "" {
			next = "ls -la " + f.StateDir
		}
		return Finding{Level: Failure, Finding: "the state cannot be opened: no server starts with it", Evidence: err.Error(), Next: next}
	}
	return Finding{Level: OK, Finding: "the state can be opened", Evidence: f.StateDir}
}

func configuration(_ context.Context, f *Facts) Finding {
	if f.Configuration == nil {
		return leftOut()
	}
	path, newer, err := f.Configuration()
	switch {
	case err != nil:
		return Finding{Level: Failure, Finding: "the configuration has a mistake; the server would not start with it", Evidence: err.Error(), Next: "madmail config check"}
	case path == "":
		return Finding{Level: OK, Finding: "there is no configuration file; defaults count"}
	case newer:
		return Finding{Level: Warning, Finding: "the configuration was changed and not read since", Evidence: path, Next: "madmail reload"}
	}
	if !f.Running {
		return Finding{Level: OK, Finding: "the configuration has no mistakes", Evidence: path}
	}
	return Finding{Level: OK, Finding: "the configuration is in force", Evidence: path}
}

// digest hashes a file.
func digest(path string) (sum [sha256.Size]byte, err error) {
	in, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer in.Close()
	h := sha256.New()
	_, err = io.Copy(h, in)
	h.Sum(sum[:0])
	return sum, err
}

func binary(_ context.Context, f *Facts) Finding {
	if !f.Running || f.Executable == "" || f.RunningFile == "" {
		return leftOut()
	}
	now, err := digest(f.RunningFile)
	if err != nil {
		return Finding{Level: Unknown, Finding: "the running program cannot be read", Evidence: err.Error()}
	}
	installed, err := digest(f.Executable)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Finding{Level: Warning, Finding: "the program file was removed while it runs", Evidence: f.Executable, Next: "ls -l " + f.Executable}
	case err != nil:
		return Finding{Level: Unknown, Finding: "the program file cannot be read", Evidence: err.Error()}
	case now != installed:
		return Finding{Level: Warning, Finding: "an older program runs than the one that is installed", Evidence: fmt.Sprintf("running %x, installed %x", now[:4], installed[:4]), Next: "madmail restart"}
	}
	return Finding{Level: OK, Finding: "the program that runs is the one that is installed", Evidence: fmt.Sprintf("%x", now[:4])}
}

// reach is where a listener answers on this machine.
func reach(addr string) string {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().IsUnspecified() {
		return addr
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), ap.Port()).String()
}

// greetings are the first words of services that speak first.
var greetings = map[string]string{"smtp": "220 ", "submission": "220 ", "submission_tls": "220 ", "imap": "* OK", "imap_tls": "* OK"}

func ports(ctx context.Context, f *Facts) Finding {
	if !f.Running {
		return sockets(f)
	}
	var dead, local, open []string
	for _, l := range f.Listeners {
		if l.Net != "tcp" {
			continue
		}
		if err := greet(ctx, l); err != nil {
			dead = append(dead, fmt.Sprintf("%s on %s: %v", l.Service, l.Addr, err))
			continue
		}
		_, port, _ := net.SplitHostPort(l.Addr)
		if l.Local {
			local = append(local, l.Service+" "+port)
		} else {
			open = append(open, port)
		}
	}
	mail := func(want ...string) bool {
		return slices.ContainsFunc(f.Listeners, func(l Listener) bool { return slices.Contains(want, l.Service) && !l.Local })
	}
	switch {
	case len(dead) > 0:
		return Finding{Level: Failure, Finding: "a service listens and does not answer", Evidence: strings.Join(dead, "; "), Next: "madmail logs"}
	case !mail("imap", "imap_tls") || !mail("submission", "submission_tls"):
		return Finding{Level: Warning, Finding: "clients on other machines cannot connect: IMAP or submission listens on this machine only, or not at all", Evidence: strings.Join(local, ", "), Next: "madmail port status"}
	}
	return Finding{Level: OK, Finding: "all services answer on this machine; a firewall in front can still be in the way", Evidence: "open to all: " + strings.Join(open, ", "), Next: "from another machine: nc -vz " + f.Hostname + " 993"}
}

// sockets is ports of a server that does not run.
func sockets(f *Facts) Finding {
	if f.Sockets == nil {
		return leftOut()
	}
	errs := f.Sockets()
	if len(errs) == 0 {
		return Finding{Level: OK, Finding: "the ports are free for the server"}
	}
	next := fault.HintOf(errs[0])
	if next == "" {
		next = "ss -tulnp"
	}
	return Finding{Level: Failure, Finding: "the server cannot start: its ports cannot be opened", Evidence: errors.Join(errs...).Error(), Next: next}
}

// greet connects to a listener and waits for its first word.
func greet(ctx context.Context, l Listener) error {
	conn, err := dial(ctx, l)
	if err != nil {
		return err
	}
	defer conn.Close()
	want := greetings[l.Service]
	if want == "" {
		return nil
	}
	b := make([]byte, len(want))
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if string(b) != want {
		return fmt.Errorf("it says %q", b)
	}
	return nil
}

// renewBy is what to type for another certificate, where others do not bring it.
func renewBy(f *Facts, others string) string {
	if f.Renewal != nil && f.Renewal(context.Background()).On {
		return "madmail certificate get"
	}
	return others
}

func certificate(_ context.Context, f *Facts) Finding {
	if f.Certificate == nil {
		return leftOut()
	}
	leaf, self, err := f.Certificate()
	if err != nil {
		next := fault.HintOf(err)
		if next == "" {
			next = "madmail config check"
		}
		return Finding{Level: Failure, Finding: "the certificate cannot be used", Evidence: err.Error(), Next: next}
	}
	if leaf == nil {
		return leftOut()
	}
	left, soon := leaf.NotAfter.Sub(f.Now()), 14*24*time.Hour
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life < soon {
		soon = life / 2 // one for an address lives for six days
	}
	evidence := fmt.Sprintf("valid until %s, for %s", leaf.NotAfter.UTC().Format(time.DateOnly), strings.Join(append(slices.Clone(leaf.DNSNames), ips(leaf.IPAddresses)...), ", "))
	var missing []string
	for _, name := range f.Names {
		if leaf.VerifyHostname(name) != nil {
			missing = append(missing, name)
		}
	}
	switch {
	case left <= 0:
		return Finding{Level: Failure, Finding: "the certificate has run out", Evidence: evidence, Next: renewBy(f, "replace tls_cert and tls_key, then madmail reload")}
	case f.Now().Before(leaf.NotBefore):
		return Finding{Level: Failure, Finding: "the certificate is not valid yet: is the clock right?", Evidence: "from " + leaf.NotBefore.UTC().Format(time.RFC3339), Next: "date -u"}
	case left < soon && !self:
		return Finding{Level: Warning, Finding: "the certificate runs out soon", Evidence: evidence, Next: renewBy(f, "renew it, then madmail reload")}
	case len(missing) > 0:
		return Finding{Level: Warning, Finding: "the certificate does not name " + strings.Join(missing, ", "), Evidence: evidence, Next: renewBy(f, "order one for all names, then madmail reload")}
	case self:
		_, literal := f.Domain.IP()
		if literal {
			return Finding{Level: OK, Finding: "the certificate is our own; clients are told to accept it", Evidence: evidence}
		}
		return Finding{Level: Warning, Finding: "the certificate is our own: other servers with a name refuse to bring mail here", Evidence: evidence, Next: renewBy(f, "madmail certificate autocert enable --email ADDRESS")}
	}
	return Finding{Level: OK, Finding: "the certificate is valid", Evidence: evidence}
}

func renewal(ctx context.Context, f *Facts) Finding {
	if f.Renewal == nil {
		return leftOut()
	}
	r := f.Renewal(ctx)
	switch {
	case !r.On:
		return leftOut()
	case r.Failures > 0:
		return Finding{Level: Warning, Finding: fmt.Sprintf("no certificate was obtained, %d times in a row", r.Failures),
			Evidence: "next try " + r.NextTry.UTC().Format(time.RFC3339) + ": " + r.Error, Next: "mend that, then madmail certificate get"}
	case r.Door != nil:
		next := fault.HintOf(r.Door)
		if next == "" {
			next = "madmail certificate get"
		}
		return Finding{Level: Warning, Finding: "the authority would not be answered on port 80", Evidence: r.Door.Error(), Next: next}
	}
	return Finding{Level: OK, Finding: "certificates are ordered by this server, and no order failed"}
}

func ips(list []net.IP) (s []string) {
	for _, ip := range list {
		s = append(s, ip.String())
	}
	return s
}

func zone(ctx context.Context, f *Facts) Finding {
	if f.Zone == nil {
		return leftOut()
	}
	records, reason, err := f.Zone(ctx)
	if err != nil {
		return Finding{Level: Unknown, Finding: "the DNS could not be asked", Evidence: err.Error(), Next: "madmail dns"}
	}
	if reason != "" {
		return Finding{Level: OK, Finding: reason}
	}
	var broken, wished, unknown []string
	for _, r := range records {
		text := r.Type + " " + r.Name + " " + r.State
		switch {
		case r.State == "unknown":
			unknown = append(unknown, r.Name+": "+r.Error)
		case r.State == "ok":
		case r.Required:
			broken = append(broken, text)
		default:
			wished = append(wished, text)
		}
	}
	switch {
	case len(broken) > 0:
		return Finding{Level: Failure, Finding: "records that other servers need are not published", Evidence: strings.Join(broken, "; "), Next: "madmail dns"}
	case len(unknown) > 0:
		return Finding{Level: Unknown, Finding: "the DNS does not answer", Evidence: unknown[0], Next: "madmail dns"}
	case len(wished) > 0:
		return Finding{Level: Note, Finding: "some recommended records are not published", Evidence: strings.Join(wished, "; "), Next: "madmail dns"}
	}
	return Finding{Level: OK, Finding: "all records are published", Evidence: fmt.Sprintf("%d records", len(records))}
}

func clock(ctx context.Context, f *Facts) Finding {
	if len(f.Clocks) == 0 {
		return leftOut()
	}
	var last error
	for _, url := range f.Clocks {
		off, err := offset(ctx, f, url)
		if err != nil {
			last = err
			continue
		}
		evidence := fmt.Sprintf("%+.0f s against %s", off.Seconds(), url)
		switch {
		case off.Abs() > 5*time.Minute:
			return Finding{Level: Failure, Finding: "the clock is wrong: other servers refuse our signatures", Evidence: evidence, Next: "timedatectl set-ntp true"}
		case off.Abs() > 30*time.Second:
			return Finding{Level: Warning, Finding: "the clock is not exact", Evidence: evidence, Next: "timedatectl set-ntp true"}
		}
		return Finding{Level: OK, Finding: "the clock is right", Evidence: evidence}
	}
	return Finding{Level: Unknown, Finding: "nobody could be asked for the time", Evidence: last.Error(), Next: "timedatectl"}
}

// offset is how far this clock is ahead of a web server's.
func offset(ctx context.Context, f *Facts, url string) (time.Duration, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return 0, err
	}
	before := f.Now()
	resp, err := f.Client.Do(r)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	after := f.Now()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0, errors.New(url + " does not tell the time")
	}
	// The field has seconds: half of one on average.
	return before.Add(after.Sub(before) / 2).Sub(date.Add(500 * time.Millisecond)).Round(time.Second), nil
}

func disk(_ context.Context, f *Facts) Finding {
	if f.Disk == nil {
		return leftOut()
	}
	total, free, inodes, freeInodes, ok := f.Disk()
	if !ok {
		return Finding{Level: Unknown, Finding: "the file system does not tell how full it is"}
	}
	evidence := fmt.Sprintf("%d of %d MiB free", free>>20, total>>20)
	next := "df -h " + f.StateDir
	switch {
	case free < 64<<20:
		return Finding{Level: Failure, Finding: "the disk is full: no mail is taken", Evidence: evidence, Next: next}
	case inodes > 0 && freeInodes < 1000:
		return Finding{Level: Failure, Finding: "the file system has no room for more files", Evidence: fmt.Sprintf("%d of %d inodes free", freeInodes, inodes), Next: "df -i " + f.StateDir}
	case free < 1<<30 && free < total/10:
		return Finding{Level: Warning, Finding: "the disk is nearly full", Evidence: evidence, Next: next}
	case inodes > 0 && freeInodes < inodes/20:
		return Finding{Level: Warning, Finding: "the file system has room for few more files", Evidence: fmt.Sprintf("%d of %d inodes free", freeInodes, inodes), Next: "df -i " + f.StateDir}
	}
	return Finding{Level: OK, Finding: "there is room on the disk", Evidence: evidence}
}

// some names a few of a list.
func some(list []string) string {
	const few = 5
	if len(list) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:few], ", "), len(list)-few)
	}
	return strings.Join(list, ", ")
}

// loose returns the secrets that others can read, and those that we cannot.
func loose(f *Facts) (open, shut []string) {
	for _, path := range f.Secrets {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if info.Mode().Perm()&0o077 != 0 {
			open = append(open, path)
		}
		if file, err := os.Open(path); err != nil {
			shut = append(shut, path)
		} else {
			file.Close()
		}
	}
	return open, shut
}

func files(_ context.Context, f *Facts) Finding {
	probe := filepath.Join(f.StateDir, ".doctor.tmp")
	err := os.WriteFile(probe, []byte("x"), 0o600)
	_ = os.Remove(probe)
	if err != nil {
		return Finding{Level: Failure, Finding: "the state directory cannot be written", Evidence: err.Error(), Next: "chown -R madmail: " + f.StateDir}
	}
	open, shut := loose(f)
	var foreign []string
	owner := "madmail:"
	if f.Foreign != nil {
		foreign, owner = f.Foreign()
	}
	switch {
	case len(foreign) > 0:
		return Finding{Level: Failure, Finding: "files in the state directory belong to somebody else than it does", Evidence: some(foreign), Next: "chown -R " + owner + " " + f.StateDir}
	case len(shut) > 0:
		return Finding{Level: Failure, Finding: "files of the server cannot be read by it", Evidence: strings.Join(shut, ", "), Next: "chown -R madmail: " + f.StateDir}
	case len(open) > 0:
		return Finding{Level: Warning, Finding: "other users of this machine can read secrets", Evidence: strings.Join(open, ", "), Next: "madmail doctor --fix"}
	}
	return Finding{Level: OK, Finding: "files have the right owner and modes", Evidence: f.StateDir}
}

func fixFiles(f *Facts) (string, error) {
	open, _ := loose(f)
	for _, path := range open {
		if err := os.Chmod(path, 0o600); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d file(s) are private now", len(open)), nil
}

func descriptors(_ context.Context, f *Facts) Finding {
	if f.Descriptors == nil {
		return leftOut()
	}
	n, ok := f.Descriptors()
	if !ok {
		return leftOut()
	}
	if n < f.Wanted {
		return Finding{Level: Warning, Finding: "there are fewer open files than sessions allowed", Evidence: fmt.Sprintf("%d, wanted %d", n, f.Wanted), Next: "LimitNOFILE=131072 in the unit, then systemctl daemon-reload and systemctl restart madmail"}
	}
	return Finding{Level: OK, Finding: "enough files may be open", Evidence: fmt.Sprint(n)}
}

func registration(_ context.Context, f *Facts) Finding {
	if f.Registration == nil {
		return leftOut()
	}
	open, jit, tokens := f.Registration()
	evidence := "addresses are ...@" + string(f.Domain)
	switch {
	case !open && !jit:
		return Finding{Level: Note, Finding: "nobody can register", Evidence: evidence, Next: "madmail registration open"}
	case tokens:
		return Finding{Level: Note, Finding: "only those with a token can register", Evidence: evidence, Next: "madmail registration-tokens create"}
	case !jit:
		return Finding{Level: Note, Finding: "a first login makes no account; the web page does", Evidence: evidence, Next: "madmail creds jit enable"}
	case !open:
		return Finding{Level: Note, Finding: "the web page makes no accounts; a first login does", Evidence: evidence, Next: "madmail registration open"}
	}
	return Finding{Level: OK, Finding: "anybody can register", Evidence: evidence}
}

func adminToken(ctx context.Context, f *Facts) Finding {
	if f.Token == nil {
		return leftOut()
	}
	token, err := f.Token()
	switch {
	case err != nil:
		found := Finding{Level: Failure, Finding: "there is no usable admin token", Evidence: err.Error(), Next: "madmail admin-token"}
		if hint := fault.HintOf(err); hint != "" {
			found.Next = hint
		}
		return found
	case token == "disabled":
		return Finding{Level: OK, Finding: "the admin API is switched off"}
	case !f.Running || f.AdminURL == "":
		return Finding{Level: OK, Finding: "there is an admin token"}
	}
	body := `{"method":"GET","resource":"/admin/status","headers":{"Authorization":"Bearer ` + token + `"}}`
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.AdminURL, strings.NewReader(body))
	if err != nil {
		return Finding{Level: Unknown, Finding: "the admin API's address cannot be used", Evidence: err.Error()}
	}
	resp, err := insecure(f.Client).Do(r)
	if err != nil {
		return Finding{Level: Failure, Finding: "the admin API does not answer", Evidence: err.Error(), Next: "madmail port status"}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || !strings.Contains(string(answer), `"status":200`) {
		return Finding{Level: Failure, Finding: "the admin API refuses the token of the state directory", Evidence: fmt.Sprintf("%d %.200s", resp.StatusCode, answer), Next: "madmail admin-token; is CHATMAIL_ADMIN_TOKEN set for the server?"}
	}
	return Finding{Level: OK, Finding: "the admin API takes the token"}
}

func panel(_ context.Context, f *Facts) Finding {
	if f.Panel == nil {
		return leftOut()
	}
	built, on := f.Panel()
	switch {
	case on && !built:
		return Finding{Level: Note, Finding: "the operators' page is switched on and not part of this program", Next: "make build-with-admin-web; or open https://admin.madmail.chat and give it what madmail admin-token prints"}
	case !on:
		return Finding{Level: OK, Finding: "the operators' page is switched off"}
	}
	return Finding{Level: OK, Finding: "the operators' page is served"}
}

// maxPages is how many pages are named in a finding.
const maxPages = 5

func site(_ context.Context, f *Facts) Finding {
	if f.Site == nil {
		return leftOut()
	}
	dir, list, err := f.Site()
	switch {
	case err != nil:
		return Finding{Level: Failure, Finding: "the site's own directory cannot be read", Evidence: dir + ": " + err.Error(), Next: "madmail html-serve embedded, or name a directory that the server's user can read"}
	case dir == "":
		return Finding{Level: OK, Finding: "the pages are those of the program"}
	}
	var broken, notes []string
	for _, p := range list {
		if p.Broken {
			broken = append(broken, p.Text)
		} else {
			notes = append(notes, p.Text)
		}
	}
	few := func(l []string) string {
		if n := len(l) - maxPages; n > 0 {
			l = append(l[:maxPages:maxPages], fmt.Sprintf("and %d more", n))
		}
		return strings.Join(l, "; ")
	}
	switch {
	case len(broken) > 0:
		return Finding{Level: Failure, Finding: "pages of the site cannot be shown", Evidence: dir + ": " + few(broken), Next: "correct them; no restart is needed"}
	case len(notes) > 0:
		return Finding{Level: Note, Finding: "pages of the site use variables that there are not", Evidence: dir + ": " + few(notes), Next: "docs/operate.md lists the variables"}
	}
	return Finding{Level: OK, Finding: "all pages of the site can be shown", Evidence: dir}
}

func quota(ctx context.Context, f *Facts) Finding {
	if f.Quota == nil {
		return leftOut()
	}
	n, wrong, err := f.Quota(ctx)
	switch {
	case err != nil:
		return Finding{Level: Unknown, Finding: "the mail could not be measured", Evidence: err.Error()}
	case wrong > 0:
		return Finding{Level: Note, Finding: "storage was counted wrong and is right now: files were put or removed by hand", Evidence: fmt.Sprintf("%d of %d accounts", wrong, n)}
	}
	return Finding{Level: OK, Finding: "storage is counted right", Evidence: fmt.Sprintf("%d accounts measured", n)}
}

func federation(_ context.Context, f *Facts) Finding {
	if f.Queue == nil {
		return leftOut()
	}
	waiting, unreachable := f.Queue()
	var names []string
	for d := range unreachable {
		names = append(names, d)
	}
	slices.Sort(names)
	switch {
	case len(names) > 0:
		return Finding{Level: Note, Finding: fmt.Sprintf("%d server(s) cannot be reached", len(names)), Evidence: names[0] + ": " + unreachable[names[0]], Next: "madmail queue why " + names[0]}
	case waiting > 1000:
		return Finding{Level: Warning, Finding: "much mail waits for other servers", Evidence: fmt.Sprintf("%d messages", waiting), Next: "madmail queue list --limit 20"}
	}
	return Finding{Level: OK, Finding: "mail to other servers goes through", Evidence: fmt.Sprintf("%d messages wait", waiting)}
}

func push(_ context.Context, f *Facts) Finding {
	if f.Push == nil {
		return leftOut()
	}
	on, failures := f.Push()
	switch {
	case !on:
		return Finding{Level: Note, Finding: "sleeping phones are not woken", Next: "madmail push auto"}
	case failures > 0:
		return Finding{Level: Warning, Finding: "the notification service fails", Evidence: fmt.Sprintf("%d times in a row", failures), Next: "madmail push status"}
	}
	return Finding{Level: OK, Finding: "sleeping phones are woken"}
}

func sharing(ctx context.Context, f *Facts) Finding {
	if f.Sharing == nil {
		return leftOut()
	}
	on, links, hidden, err := f.Sharing(ctx)
	switch {
	case err != nil:
		return Finding{Level: Failure, Finding: "the contact pages cannot be read; mail is not concerned", Evidence: err.Error(), Next: "move sharing.db away, or put back the one of a backup"}
	case len(hidden) > 0:
		return Finding{Level: Warning, Finding: fmt.Sprintf("contact pages whose names belong to the server cannot be opened: %d", len(hidden)),
			Evidence: strings.Join(hidden[:min(len(hidden), 10)], ", "), Next: "madmail sharing create OTHER-NAME URL, then madmail sharing remove " + hidden[0]}
	case !on && links == 0:
		return leftOut()
	case !on:
		return Finding{Level: Note, Finding: fmt.Sprintf("contact pages are switched off, and there are some: %d", links), Next: "madmail settings set contact_sharing_enabled true"}
	}
	return Finding{Level: OK, Finding: fmt.Sprintf("visitors may make contact pages; so far: %d", links)}
}

func noLog(_ context.Context, f *Facts) Finding {
	if f.Logging == nil {
		return leftOut()
	}
	if on, why := f.Logging(); on {
		next := "madmail creds logging off"
		if strings.HasPrefix(why, "debug") {
			next = "take debug out of the configuration and off the command line, then madmail reload"
		}
		return Finding{Level: Note, Finding: "a log is written, and so kept by whoever keeps logs here", Evidence: why, Next: next}
	}
	return Finding{Level: OK, Finding: "nothing is logged"}
}
