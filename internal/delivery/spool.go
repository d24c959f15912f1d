package delivery

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/gate"
	"madmail/internal/mailbox"
	"madmail/internal/message"
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}

// spool reads the message once: into a body, with its header edited on the
// way, and through the gate. The body is returned only when the message may
// pass; what was written of a refused one is dropped.
func (s *Service) spool(ctx context.Context, e *Envelope, r io.Reader) (mailbox.Body, error) {
	w, err := s.Store.NewBody(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	if _, err := s.read(ctx, e, r, w, rules[e.Via].keep); err != nil {
		return nil, err
	}
	return w.Seal()
}

// read reads the message once, into w and through the gate. With keep its header
// is not edited.
func (s *Service) read(ctx context.Context, e *Envelope, r io.Reader, w mailbox.BodyWriter, keep bool) (gate.Verdict, error) {
	rule := rules[e.Via]
	check := gate.New(gate.Options{
		Outgoing:     rule.outgoing,
		NoSecureJoin: s.NoSecureJoin != nil && s.NoSecureJoin(),
		ToSelf:       len(e.To) == 1 && e.To[0] == e.From,
	})
	in := intake{keep: keep, hide: rule.hide, check: check, w: w, left: s.MaxSize(e.Via)}
	if s.Form != nil {
		in.form.Form = s.Form(e.Via)
	}
	if err := in.copy(ctx, r); err != nil {
		return gate.Verdict{}, err
	}
	if in.form.err != nil {
		return gate.Verdict{}, in.form.err
	}
	v := check.Close()
	return v, s.judge(e, v, cmp.Or(in.form.Received, MaxReceived))
}

// intake is one reading of one message.
type intake struct {
	keep   bool // the header as it is
	hide   bool // the subject
	check  *gate.Checker
	w      mailbox.BodyWriter
	form   measure
	left   int64  // octets that may still come
	header []byte // until its end was found
	inBody bool
	err    error // of w: reading goes on to the end of the message
}

func (in *intake) copy(ctx context.Context, r io.Reader) error {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := r.Read(*buf)
		in.take((*buf)[:n])
		if in.left < 0 {
			return errTooBig
		}
		switch {
		case errors.Is(err, io.EOF):
			in.endHeader(len(in.header))
			return in.err
		case err != nil:
			return err
		case in.err != nil:
			return in.err
		case ctx.Err() != nil:
			return fault.Wrap(fault.Busy, ctx.Err(), "delivery: read the message")
		}
	}
}

func (in *intake) take(p []byte) {
	in.left -= int64(len(p))
	_, _ = in.check.Write(p)
	in.form.take(p)
	if in.inBody || in.keep {
		in.write(p)
		return
	}
	in.header = append(in.header, p...)
	if end := message.HeaderEnd(in.header); end >= 0 {
		in.endHeader(end)
	} else if len(in.header) > message.MaxHeader {
		in.endHeader(len(in.header)) // the gate refuses it
	}
}

// endHeader writes the edited header block and what was read behind it.
func (in *intake) endHeader(n int) {
	if in.inBody || in.keep {
		return
	}
	in.inBody = true
	rest := in.header[n:]
	in.write(message.Strip(in.header[:n], in.hide))
	in.write(rest)
	in.header = nil
}

func (in *intake) write(p []byte) {
	if in.err == nil && len(p) > 0 {
		_, in.err = in.w.Write(p)
	}
}

// judge turns the gate's verdict into an answer.
func (s *Service) judge(e *Envelope, v gate.Verdict, maxReceived int) error {
	rule := rules[e.Via]
	switch {
	case v.NUL:
		return fault.New(fault.Invalid, "Message contains a NUL octet")
	case v.BareEOL:
		return fault.New(fault.Invalid, "Lines of a message must end in CR LF")
	case v.Malformed:
		return fault.New(fault.Invalid, "Malformed header")
	case v.Received > maxReceived:
		return fault.New(fault.Refused, "Too many hops, this message is going in circles")
	case rule.exempt:
		return nil
	}
	if rule.bound {
		from, err := address.Parse(v.From)
		if v.Froms != 1 || err != nil || from != e.From {
			return fault.New(fault.Invalid, "Invalid FROM: it must be the address of your login, once")
		}
	} else if v.Froms == 0 && !rule.keep {
		return fault.New(fault.Invalid, "Invalid FROM header")
	}
	if v.Kind == gate.Clear {
		return gate.ErrUnencrypted
	}
	return nil
}
