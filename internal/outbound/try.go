package outbound

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/message"
	"madmail/internal/peers"
	"madmail/internal/policy"
	"madmail/internal/queue"
)

const (
	// firmTries is after how many tries a refusal by HTTP is believed that SMTP could not
	// confirm.
	firmTries = 3
	// tryLimit bounds one try without the time that the body needs.
	tryLimit = 8 * time.Minute
	slowest  = 32 << 10 // octets per second that a body needs at least
	// expireBatch is how many messages are given up at a time when a dead server has
	// many.
	expireBatch = 200
	// noticeWait is the wait after a notification that could not be delivered.
	noticeWait = 5 * time.Minute
)

// try delivers an entry as far as possible and gives it back to the queue.
func (w *Worker) try(ctx context.Context, e *queue.Entry) {
	ended := false
	defer func() {
		if ended {
			w.opt.Queue.Release(e.ID) // does nothing to one that was given back
			return
		}
		// A panic. The entry must not stay taken, nor come back at once.
		now := w.opt.Now()
		if e.Expires.Before(now) {
			w.opt.Queue.SetAside(e.ID, errors.New("delivering this message makes the server fail"))
			return
		}
		e.Tries, e.Last, e.Error = e.Tries+1, now, "451 4.3.0 Local error"
		e.Due = now.Add(w.opt.Schedule.Wait(e.Tries, w.opt.Random()))
		if err := w.opt.Queue.Retry(e); err != nil {
			w.opt.Logger.Error("the queue cannot write down what happened", "err", err)
		}
	}()
	w.deliver(ctx, e)
	ended = true
}

// deliver is try without its safety net.
func (w *Worker) deliver(ctx context.Context, e *queue.Entry) {
	var todo []int
	for i, r := range e.To {
		if r.Failure == nil {
			todo = append(todo, i)
		}
	}
	if len(todo) == 0 { // only the sender is to be told
		w.settle(ctx, e, nil)
		return
	}
	switch w.opt.Policy.Outbound(e.Destination) {
	case policy.Dismiss:
		w.done(e)
		return
	case policy.Refuse:
		w.settle(ctx, e, fill(e, todo, every(len(todo), notAllowed)))
		return
	}
	outs, err := w.attempt(ctx, e, todo)
	switch {
	case fault.Is(err, fault.NotFound), fault.Is(err, fault.Invalid):
		w.opt.Queue.SetAside(e.ID, err)
		return
	case err != nil: // our own trouble
		w.opt.Logger.Error("a queued message cannot be sent now", "kind", fault.KindOf(err).String(), "err", err)
		outs = every(len(todo), Outcome{Result: Later, Status: "4.3.0", Reply: "451 4.3.0 Local error"})
	}
	all := fill(e, todo, outs)
	if ctx.Err() != nil { // interrupted: what failed was no try
		n := 0
		for i, o := range all {
			if o != nil && o.Result == Failed {
				all[i] = nil
			} else if o != nil {
				n++
			}
		}
		if n > 0 {
			w.settle(ctx, e, all)
		}
		return
	}
	w.note(e, outs)
	w.settle(ctx, e, all)
	if expired := w.expired(e.Destination); expired != nil {
		w.giveUp(ctx, e.Destination, *expired)
	}
}

// fill spreads the outcomes of some recipients over all.
func fill(e *queue.Entry, todo []int, outs []Outcome) []*Outcome {
	all := make([]*Outcome, len(e.To))
	for k, i := range todo {
		all[i] = &outs[k]
	}
	return all
}

// note tells the statistics and the memory of destinations what happened.
func (w *Worker) note(e *queue.Entry, outs []Outcome) {
	delivered, answered, failed := false, false, false
	var last Outcome
	for _, o := range outs {
		delivered = delivered || o.Result == Delivered
		answered = answered || o.Answered
		if o.Result == Failed {
			failed, last = true, o
		}
	}
	if delivered {
		w.opt.Peers.Sent(e.Destination, w.opt.Now().Sub(e.Queued))
	}
	switch {
	case delivered || answered && !failed:
		w.reached(e.Destination)
	case failed:
		w.notReached(e.Destination, last)
	}
	w.opt.Logger.Debug("outbound try", "domain", e.Destination, "recipients", len(outs), "delivered", delivered, "answered", answered, "tries", e.Tries+1)
}

// expired returns why a destination is not reached, or nil when it is.
func (w *Worker) expired(d address.Domain) *Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.domains[d]; s != nil && s.failures > 0 {
		last := s.last
		return &last
	}
	return nil
}

// giveUp ends entries of a destination that was just not reached and whose time is
// over: with many of them a try for each would never come to an end.
func (w *Worker) giveUp(ctx context.Context, d address.Domain, why Outcome) {
	for _, id := range w.opt.Queue.Expired(d, expireBatch) {
		if ctx.Err() != nil {
			return
		}
		e, err := w.opt.Queue.Take(id)
		if err != nil {
			continue // somebody else has it
		}
		outs := make([]*Outcome, len(e.To))
		for i, r := range e.To {
			if r.Failure == nil {
				outs[i] = &why
			}
		}
		w.settle(ctx, e, outs)
	}
}

// attempt tries the hosts of an entry's destination for some of its recipients. The error
// is about our own disk or keys.
func (w *Worker) attempt(ctx context.Context, e *queue.Entry, todo []int) ([]Outcome, error) {
	body, err := w.opt.Queue.Body(e.ID)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	limit := tryLimit + time.Duration(body.Size()/slowest)*time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	m, err := NewMessage(body, body.Size())
	if err != nil {
		return nil, err
	}
	perm := w.opt.Policy.Transports(e.Destination)
	hosts, out := w.route(ctx, e.Destination, perm)
	if out != nil {
		return every(len(todo), *out), nil
	}
	if err := m.sign(ctx, w.opt.Signer); err != nil {
		return nil, fault.Wrap(fault.Busy, err, "outbound")
	}
	t := &attempt{w: w, m: m, from: e.From, outs: every(len(todo), noHost)}
	for _, i := range todo {
		t.to = append(t.to, e.To[i].Addr)
		t.pending = append(t.pending, len(t.to)-1)
	}
	ways := 0
	for _, h := range hosts {
		l := &Letter{From: e.From, To: t.to, Message: m}
		list := plan(e.Destination, h, perm, l, w.recall.get(h.name), w.opt.Now())
		ways += len(list)
		if t.host(ctx, list) {
			break
		}
	}
	if ways == 0 {
		return every(len(todo), noWay), nil
	}
	return t.outs, nil
}

// attempt is one entry on its way.
type attempt struct {
	w       *Worker
	m       *Message
	from    address.Addr
	to      []address.Addr
	outs    []Outcome
	pending []int // recipients without the peer's word
}

// host tries the ways to one host, and reports whether the matter is settled.
func (t *attempt) host(ctx context.Context, ways []Target) bool {
	doubt := make(map[int]Outcome)
	httpFailed, httpAnswered := false, false
	for i, way := range ways {
		if ctx.Err() != nil || len(t.pending) == 0 {
			break
		}
		tr := t.w.opt.SMTP
		if way.By != peers.SMTP {
			tr = t.w.opt.HTTP
		}
		// A web server that answers by TLS is not asked again without.
		if tr == nil || way.By == peers.HTTP && httpAnswered {
			continue
		}
		l := &Letter{From: t.from, Message: t.m}
		for _, k := range t.pending {
			l.To = append(l.To, t.to[k])
		}
		outs := tr.Deliver(ctx, way, l)
		if len(outs) != len(l.To) {
			outs = Every(l, Outcome{Result: Failed, Status: "4.3.0", Reply: "451 4.3.0 Local error"})
		}
		t.w.recall.learn(way, t.m.Size(), outs, httpFailed, t.w.opt.Now())
		delivered := false
		var rest []int
		for k, o := range outs {
			delivered = delivered || o.Result == Delivered
			at := t.pending[k]
			httpAnswered = httpAnswered || way.By != peers.SMTP && o.Answered
			switch o.Result {
			case Failed:
				rest = append(rest, at)
				if d, doubted := doubt[at]; doubted {
					o = d
				} else if before := t.outs[at]; o.After < before.After {
					o.After = before.After // what the web server asked for
				}
			case Doubtful:
				doubt[at] = o
				rest = append(rest, at)
			}
			t.outs[at] = o
		}
		if ctx.Err() == nil || delivered {
			t.w.opt.Peers.Tried(way.Domain, way.By, delivered)
		}
		httpFailed = httpFailed || way.By != peers.SMTP && !delivered
		t.pending = rest
		// SMTP is asked at once about a doubt, and no other way.
		if len(doubt) > 0 && way.By != peers.SMTP {
			if smtpAfter(ways, i) < 0 {
				break
			}
		}
	}
	if len(doubt) > 0 && smtpAfter(ways, -1) < 0 { // nobody else may be asked
		for _, at := range t.pending {
			if t.outs[at].Result == Doubtful {
				t.outs[at].Result = Refused
			}
		}
	}
	return len(doubt) > 0 || len(t.pending) == 0
}

// smtpAfter returns where SMTP comes after i, or -1.
func smtpAfter(ways []Target, i int) int {
	for j := i + 1; j < len(ways); j++ {
		if ways[j].By == peers.SMTP {
			return j
		}
	}
	return -1
}

// settle writes down what became of the recipients: nil leaves one as it is. The
// sender is told about failures for good.
func (w *Worker) settle(ctx context.Context, e *queue.Entry, outs []*Outcome) {
	now := w.opt.Now()
	expired := !e.Expires.After(now)
	var rest []queue.Recipient
	tried, firm := false, false
	var after time.Duration
	for i, r := range e.To {
		if outs == nil || outs[i] == nil {
			rest = append(rest, r)
			continue
		}
		o := *outs[i]
		tried = true
		switch {
		case o.Result == Delivered:
			continue
		case o.Result == Refused, o.Result == Doubtful && o.Firm && e.Doubts+1 >= firmTries, o.Limit > 0 && now.Sub(e.Queued) >= o.Limit:
			r.Failure = failure(o)
		case expired:
			o.Reply = "Could not be delivered in time. Last answer: " + o.Reply
			o.Status = "5.4.7"
			r.Failure = failure(o)
		default:
			firm = firm || o.Result == Doubtful && o.Firm
			after = max(after, o.After)
			e.Error = o.Reply
		}
		rest = append(rest, r)
	}
	e.To = rest
	if tried {
		e.Tries, e.Last = e.Tries+1, now
		if firm {
			e.Doubts++
		}
	}
	told := w.tell(ctx, e)
	if len(e.To) == 0 {
		w.done(e)
		return
	}
	wait := max(w.opt.Schedule.Wait(e.Tries, w.opt.Random()), after)
	if !told {
		wait = max(wait, noticeWait)
	}
	if e.Due = now.Add(wait); e.Due.After(e.Expires) && e.Expires.After(now) {
		e.Due = e.Expires // one last time
	}
	if err := w.opt.Queue.Retry(e); err != nil {
		w.opt.Logger.Error("the queue cannot write down what happened", "err", err)
	}
}

func (w *Worker) done(e *queue.Entry) {
	if err := w.opt.Queue.Done(e.ID); err != nil {
		w.opt.Logger.Error("a delivered message stays in the queue's directory", "err", err)
	}
}

func failure(o Outcome) *queue.Failure {
	return &queue.Failure{Status: permanent(o.Status), Reply: o.Reply, Remote: o.Remote}
}

// permanent turns a status of the fourth class into one of the fifth: it was the last try.
func permanent(status string) string {
	if len(status) > 1 && status[0] == '4' {
		return "5" + status[1:]
	}
	return status
}

// tell makes one notification of all recipients that failed, and takes them out of the
// entry. When it cannot be delivered now they stay, and tell returns false.
func (w *Worker) tell(ctx context.Context, e *queue.Entry) bool {
	var rest []queue.Recipient
	var failed []message.Failure
	for _, r := range e.To {
		if r.Failure == nil {
			rest = append(rest, r)
			continue
		}
		failed = append(failed, message.Failure{Recipient: r.Addr, Status: r.Failure.Status, Reply: r.Failure.Reply, Remote: r.Failure.Remote})
	}
	if len(failed) == 0 {
		return true
	}
	w.opt.Logger.Info("a message was not delivered", "domain", e.Destination, "recipients", len(failed), "tries", e.Tries)
	// No notification answers one (RFC 5321 section 6.1), and strangers are not told:
	// their address may be forged.
	if !e.Silent && !e.From.IsZero() && w.opt.Bouncer != nil && w.opt.Local(e.From.Domain()) {
		if err := w.bounce(ctx, e, failed); err != nil {
			switch fault.KindOf(err) {
			case fault.NotFound, fault.Full, fault.Refused, fault.Invalid, fault.TooBig: // will never be told
				w.opt.Logger.Info("the sender of a message that failed cannot be told", "kind", fault.KindOf(err).String())
			default:
				if e.Expires.Add(24 * time.Hour).After(w.opt.Now()) {
					w.opt.Logger.Warn("the sender of a message that failed cannot be told now", "kind", fault.KindOf(err).String(), "err", err)
					return false
				}
			}
		}
	}
	e.To, e.Notice = rest, ""
	return true
}

// bounce delivers a notification, once: its name is written down before, so that a
// server that was killed in between finds out whether it did.
func (w *Worker) bounce(ctx context.Context, e *queue.Entry, failed []message.Failure) error {
	// A notification is for a mailbox of ours: no network, so it is finished also when
	// the tries are to end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	domain := w.opt.Domain()
	if e.Notice != "" {
		if told, err := w.opt.Bouncer.Bounced(ctx, e.From, e.Notice); told || err != nil {
			return err
		}
	} else {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails
		e.Notice = fmt.Sprintf("%x@%s", id, domain.Host())
		if err := w.opt.Queue.Keep(e); err != nil {
			e.Notice = ""
			return err
		}
	}
	var header []byte
	if b, err := w.opt.Queue.Body(e.ID); err == nil {
		if header, err = readHeader(io.NewSectionReader(b, 0, b.Size())); err != nil {
			header = nil // then it is told without
		}
		if err := b.Close(); err != nil {
			w.opt.Logger.Debug("close a body", "err", err)
		}
	}
	text, err := message.Bounce(message.Notice{
		ID: e.Notice, Host: w.opt.Hostname(), Domain: domain, To: e.From, Date: w.opt.Now(), Arrived: e.Queued,
		Original: header, Failures: failed,
	})
	if err != nil {
		return err
	}
	return w.opt.Bouncer.Bounce(ctx, e.From, text)
}
