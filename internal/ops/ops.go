// Package ops holds every operator action once: a name, a typed request and a
// typed result. The command line and, later, the admin API and the panel are
// faces of this table. It knows nothing of HTTP, flags, terminals or JSON
// framing.
package ops

import (
	"context"
	"encoding/json"
	"io"

	"madmail/internal/fault"
)

// Operation is one action. Run takes the parameters as JSON and returns a value
// that has a JSON form.
type Operation struct {
	Name string
	Doc  string
	Run  func(ctx context.Context, params json.RawMessage) (any, error)
}

// Table is the actions by name.
type Table map[string]Operation

// Define adds an action whose request is P and whose result is R.
func Define[P, R any](t Table, name, doc string, run func(ctx context.Context, p P) (R, error)) {
	t[name] = Operation{Name: name, Doc: doc, Run: func(ctx context.Context, params json.RawMessage) (any, error) {
		var p P
		if len(params) > 0 {
			if err := json.Unmarshal(params, &p); err != nil {
				return nil, fault.Wrap(fault.Invalid, err, name)
			}
		}
		return run(ctx, p)
	}}
}

// input is what an action reads beside its parameters.
type input struct {
	r    io.Reader
	size int64
}

type inputKey struct{}

// WithInput gives an action size octets to read beside its parameters: what is too
// large for them, such as a message.
func WithInput(ctx context.Context, r io.Reader, size int64) context.Context {
	return context.WithValue(ctx, inputKey{}, input{r, size})
}

func inputOf(ctx context.Context) (io.Reader, int64, error) {
	in, ok := ctx.Value(inputKey{}).(input)
	if !ok || in.size <= 0 {
		return nil, 0, fault.New(fault.Invalid, "there is nothing on standard input")
	}
	return io.LimitReader(in.r, in.size), in.size, nil
}

// Run runs an action. The error is of kind fault.Invalid for a name that is
// not in the table.
func (t Table) Run(ctx context.Context, name string, params json.RawMessage) (any, error) {
	op, ok := t[name]
	if !ok {
		return nil, fault.Newf(fault.Invalid, "unknown operation %q", name)
	}
	return op.Run(ctx, params)
}
