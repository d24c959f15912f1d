package dkim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	lib "github.com/emersion/go-msgauth/dkim"

	"madmail/internal/fault"
	"madmail/internal/message"
)

// Limits of Verify. A message beyond one is not checked: the result is PermError,
// or the error fault.TooBig for the header block as a whole.
const (
	MaxHeader    = 256 << 10 // header block, octets
	maxFields    = 1000      // fields in it
	maxFolds     = 2000      // lines of one field
	maxSignature = 16 << 10  // one DKIM-Signature field, octets
	maxNames     = 256       // names in one h= tag
	maxBlank     = 64 << 10  // run of blanks and line ends in the body, octets
	maxAhead     = 5 * time.Minute
)

// DefaultMax is how many signatures of a message are checked when the caller does
// not say; MaxMax is the largest number it can say.
const (
	DefaultMax = 3
	MaxMax     = 10
)

// State is the result of checking a signature, with the meanings and the names of
// RFC 8601 section 2.7.1.
type State uint8

// The closed set of states.
const (
	None      State = iota // not signed
	Pass                   // the signature holds
	Fail                   // it does not
	TempError              // the key could not be fetched now
	PermError              // the signature or its key cannot be read
)

var states = [...]string{None: "none", Pass: "pass", Fail: "fail", TempError: "temperror", PermError: "permerror"}

// String returns the word that Authentication-Results uses.
func (s State) String() string {
	if int(s) < len(states) {
		return states[s]
	}
	return "state?"
}

// Result is what became of one signature.
type Result struct {
	State State
	// Domain and Selector are d= and s= in lower case, "" when they are no names.
	Domain, Selector string
	// Algorithm is a=: "rsa-sha256" or "ed25519-sha256", or "".
	Algorithm string
	// Reason says in a few words why State is not Pass. It is printable ASCII and
	// holds nothing of the message.
	Reason string
}

// Report is what became of a message's signatures.
type Report struct {
	// Results are those of the first signatures, in the order of the message.
	Results []Result
	// Signatures is how many the message has; it may be more than were checked.
	Signatures int
}

// Best returns the best result of a signature by domain, compared without case: no
// relation between organisational domains counts. Pass is better than TempError
// (a retry may pass), then Fail, PermError and None.
func (r Report) Best(domain string) Result {
	rank := [...]int{None: 0, PermError: 1, Fail: 2, TempError: 3, Pass: 4}
	var best Result
	for _, x := range r.Results {
		if strings.EqualFold(x.Domain, domain) && rank[x.State] > rank[best.State] {
			best = x
		}
	}
	return best
}

// LookupTXT returns the TXT records of a name, each with its strings joined. It
// must end when ctx does. Errors of kind fault.NotFound and fault.Invalid mean
// that there is no such record; any other error is taken for a temporary one.
type LookupTXT func(ctx context.Context, name string) ([]string, error)

// Verify checks the first max signatures of the message in r (RFC 6376 section 6.1);
// 0 means DefaultMax. The message must have CRLF line ends; its size is the caller's
// to limit. Memory does not grow with the body. r is not always read to its end.
//
// Beyond RFC 6376: every From field must be covered, t= may be at most five minutes
// ahead of the clock, l= is refused, RSA keys have at least 1024 bits, rsa-sha1 counts
// as unreadable (RFC 8301 section 3).
//
// Errors: fault.Invalid when the message has no header block, fault.TooBig when that
// is larger than MaxHeader or has too many fields, fault.Busy when r fails or ctx ends.
func Verify(ctx context.Context, r io.Reader, lookup LookupTXT, max int) (Report, error) {
	switch {
	case max <= 0:
		max = DefaultMax
	case max > MaxMax:
		max = MaxMax
	}
	br := bufio.NewReaderSize(r, 4096)
	block, err := readHeader(br)
	if err != nil {
		return Report{}, err
	}
	fields, err := message.ParseHeader(block)
	if err != nil {
		return Report{}, fault.Wrap(fault.Invalid, err, "dkim: verify")
	}
	if err := checkFields(fields); err != nil {
		return Report{}, err
	}
	c := &check{ctx: ctx, lookup: lookup, from: fields.Count("From")}
	rest := c.take(fields, max)
	if len(c.sigs) > 0 {
		body := &guard{ctx: ctx, r: br}
		if err := c.run(io.MultiReader(bytes.NewReader(rest), body), body); err != nil {
			return Report{}, err
		}
	}
	return c.report, nil
}

// readHeader reads the header block with its blank line.
func readHeader(br *bufio.Reader) ([]byte, error) {
	var block []byte
	for {
		line, err := br.ReadSlice('\n')
		if len(block)+len(line) > MaxHeader {
			return nil, fault.New(fault.TooBig, "Header block too large")
		}
		start := len(block)
		block = append(block, line...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			if block, err = readLine(br, block); err != nil {
				return nil, err
			}
		case errors.Is(err, io.EOF):
			return nil, fault.New(fault.Invalid, "The message has no blank line after its header")
		case err != nil:
			return nil, fault.Wrap(fault.Busy, err, "dkim: read the message")
		}
		if l := block[start:]; len(l) == 1 || len(l) == 2 && l[0] == '\r' {
			return block, nil
		}
	}
}

// readLine appends the rest of a line longer than the buffer.
func readLine(br *bufio.Reader, block []byte) ([]byte, error) {
	for {
		part, err := br.ReadSlice('\n')
		if len(block)+len(part) > MaxHeader {
			return nil, fault.New(fault.TooBig, "Header block too large")
		}
		block = append(block, part...)
		switch {
		case err == nil:
			return block, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil, fault.New(fault.Invalid, "The message has no blank line after its header")
		default:
			return nil, fault.Wrap(fault.Busy, err, "dkim: read the message")
		}
	}
}

// checkFields bounds the work that the library does on a header block: it joins
// folded lines one by one and searches all fields for each signed name.
func checkFields(h message.Header) error {
	if len(h) > maxFields {
		return fault.New(fault.TooBig, "Too many header fields")
	}
	for _, f := range h {
		if bytes.Count(f, []byte("\n")) > maxFolds {
			return fault.New(fault.TooBig, "Header field with too many lines")
		}
	}
	return nil
}

// check is one run over one message.
type check struct {
	ctx    context.Context
	lookup LookupTXT
	from   int
	sigs   []signature // those the library is given, in its order
	report Report
}

// signature is what we read ourselves of a signature that the library checks.
type signature struct {
	at   int // its place in report.Results
	algo string
}

// take reads the signature fields, notes a result for each of the first max, and
// returns the header block for the library: without those of the first max that
// are not to be checked, so that the library's first signatures are c.sigs.
func (c *check) take(h message.Header, max int) []byte {
	var out []byte
	for _, f := range h {
		if f.Is("DKIM-Signature") {
			c.report.Signatures++
			if len(c.report.Results) < max {
				res, algo, ok := readSignature(f, c.from)
				c.report.Results = append(c.report.Results, res)
				if !ok {
					continue
				}
				c.sigs = append(c.sigs, signature{at: len(c.report.Results) - 1, algo: algo})
			}
		}
		out = append(out, f...)
	}
	return append(out, "\r\n"...)
}

// readSignature reads a signature field as far as we need it. When ok is false
// the result is final.
func readSignature(f message.Field, from int) (res Result, algo string, ok bool) {
	res.State = PermError
	if len(f) > maxSignature {
		res.Reason = "signature field too long"
		return res, "", false
	}
	t, err := parseTags(string(f[bytes.IndexByte(f, ':')+1:]))
	if err != nil {
		res.Reason = "malformed signature"
		return res, "", false
	}
	if d := strings.ToLower(t["d"]); dnsName(d) {
		res.Domain = d
	}
	if s := strings.ToLower(t["s"]); dnsName(s) {
		res.Selector = s
	}
	switch a := t["a"]; a {
	case "rsa-sha256", "ed25519-sha256":
		res.Algorithm, algo = a, strings.TrimSuffix(a, "-sha256")
	case "rsa-sha1":
		res.Reason = "rsa-sha1 is too weak" // RFC 8301 section 3.1
		return res, "", false
	default:
		res.Reason = "unknown algorithm"
		return res, "", false
	}
	if res.Domain == "" || res.Selector == "" || len(Name(res.Selector, res.Domain)) > 253 {
		res.Reason = "domain or selector is no name"
		return res, "", false
	}
	if _, has := t["l"]; has {
		// Text could be added behind the signed part.
		res.Reason = "body length tag"
		return res, "", false
	}
	names := strings.Split(t["h"], ":")
	if len(names) > maxNames {
		res.Reason = "too many signed fields"
		return res, "", false
	}
	covered := 0
	for _, n := range names {
		if strings.EqualFold(n, "From") {
			covered++
		}
	}
	if covered < from || from == 0 {
		// A From field that is not covered is one that anybody can have added.
		res.Reason = "From not signed"
		return res, "", false
	}
	return res, algo, true
}

// run has the library check c.sigs and fills their results.
func (c *check) run(msg io.Reader, body *guard) error {
	vs, err := lib.VerifyWithOptions(msg, &lib.VerifyOptions{LookupTXT: c.key, MaxVerifications: len(c.sigs)})
	if errors.Is(err, lib.ErrTooManySignatures) {
		err = nil
	}
	if cerr := c.ctx.Err(); cerr != nil {
		return fault.Wrap(fault.Busy, cerr, "dkim: verify")
	}
	if body.err != nil && !errors.Is(body.err, errBlank) {
		return fault.Wrap(fault.Busy, body.err, "dkim: read the message")
	}
	if err != nil || len(vs) != len(c.sigs) {
		// The header block was read by us and reads do not fail here.
		return fault.Wrap(fault.Internal, errors.Join(err, errors.New("unexpected number of results")), "dkim: verify")
	}
	for i, v := range vs {
		res := &c.report.Results[c.sigs[i].at]
		res.State, res.Reason = judge(v)
		if body.err != nil && res.State != TempError {
			res.State, res.Reason = PermError, "too many blank lines"
		}
	}
	return nil
}

// judge turns the library's verdict into ours.
func judge(v *lib.Verification) (State, string) {
	switch {
	case v.Err == nil && time.Until(v.Time) > maxAhead:
		return Fail, "signed in the future"
	case v.Err == nil:
		return Pass, ""
	case lib.IsTempFail(v.Err):
		return TempError, "key lookup failed"
	case lib.IsPermFail(v.Err):
		return permReason(v.Err.Error())
	}
	if strings.Contains(v.Err.Error(), "body hash") {
		return Fail, "body was changed"
	}
	return Fail, "signature does not match"
}

// permReason gives the library's permanent failures our words; its own may quote
// what a stranger wrote.
func permReason(text string) (State, string) {
	for _, w := range []struct{ has, say string }{
		{"expired", "signature has expired"},
		{"revoked", "key revoked"},
		{"too short", "key too short"},
		{"no key", "no key"},
		{"no valid key", "no key"},
		{"key", "key cannot be used"},
	} {
		if strings.Contains(text, w.has) {
			if w.has == "expired" {
				// RFC 6376 section 6.1.1 lets verifiers treat it as a failure;
				// the signature is well formed.
				return Fail, w.say
			}
			return PermError, w.say
		}
	}
	return PermError, "malformed signature"
}

// key is the lookup that the library is given: it returns one cleaned record.
// It may be called from several goroutines.
func (c *check) key(name string) ([]string, error) {
	txts, err := c.lookup(c.ctx, strings.ToLower(name))
	switch {
	case fault.Is(err, fault.NotFound), fault.Is(err, fault.Invalid):
		return nil, nil
	case err != nil:
		return nil, temporary{err}
	}
	algo := "rsa"
	for _, s := range c.sigs {
		if r := c.report.Results[s.at]; strings.EqualFold(Name(r.Selector, r.Domain), name) {
			algo = s.algo
		}
	}
	record, ok := pickRecord(txts, algo)
	if !ok {
		return nil, nil
	}
	return []string{record}, nil
}

// temporary is an error of the form that the library tells temporary ones by.
type temporary struct{ error }

// Timeout is a part of net.Error.
func (temporary) Timeout() bool { return true }

// Temporary is a part of net.Error.
func (temporary) Temporary() bool { return true }

// errBlank marks a body that is not worth hashing.
var errBlank = errors.New("too many blank lines")

// guard reads a body. It ends it early, without an error that the library would
// leave goroutines behind for, when ctx ends, the reader fails or a run of blanks
// and line ends is longer than maxBlank; err says so.
type guard struct {
	ctx context.Context
	r   io.Reader
	run int
	err error
}

func (g *guard) Read(p []byte) (int, error) {
	if g.err != nil {
		return 0, io.EOF
	}
	if g.err = g.ctx.Err(); g.err != nil {
		return 0, io.EOF
	}
	n, err := g.r.Read(p)
	for i := 0; i < n; {
		switch p[i] {
		case ' ', '\t', '\r', '\n':
			g.run++
			i++
		default:
			// The rest of the line cannot be a long run.
			g.run = 0
			next := bytes.IndexAny(p[i:n], "\r\n")
			if next < 0 {
				i = n
			} else {
				i += next
			}
		}
		if g.run > maxBlank {
			g.err = errBlank
			return 0, io.EOF
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		g.err = err
		err = io.EOF
	}
	return n, err
}
