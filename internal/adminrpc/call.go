package adminrpc

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"madmail/internal/fault"
)

// Resource is one name of the API with its methods.
type Resource struct {
	Name    string
	Aliases []string
	Methods []Method
}

// Method is what one method of a resource does, and its documentation.
type Method struct {
	Method  string // GET, POST, PUT, PATCH or DELETE
	Doc     string // one sentence
	Request string // fields of the body, "" for none
	Reply   string // fields of the reply
	Changes bool   // recorded when a log is kept

	run func(ctx context.Context, c *call) (status int, body any, err error)
}

func (r Resource) method(name string) (Method, bool) {
	i := slices.IndexFunc(r.Methods, func(m Method) bool { return m.Method == name })
	if i < 0 {
		return Method{}, false
	}
	return r.Methods[i], true
}

// call is one request that was let in.
type call struct {
	s        *Server
	resource string
	body     json.RawMessage
	by       arrival
}

// read decodes the body into out. Nothing at all is as good as {}.
func (c *call) read(out any) error {
	if len(bytes.TrimSpace(c.body)) == 0 {
		return nil
	}
	return misread(json.Unmarshal(c.body, out))
}

// misread says what is wrong with a body in words that mean something to who sent it.
func misread(err error) error {
	if err == nil {
		return nil
	}
	text := strings.TrimPrefix(err.Error(), "json: ")
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		text = cmp.Or(wrong.Field, "it") + " cannot be of the JSON type " + wrong.Value
	}
	return fault.Newf(fault.Invalid, "invalid body: %s", text)
}

// listed is a list that is never null.
func listed[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// do runs an action and returns its result, which is an R.
func do[R any](ctx context.Context, c *call, op string, params any) (r R, err error) {
	raw, err := json.Marshal(params)
	if err != nil {
		return r, fault.Wrap(fault.Internal, err, op)
	}
	v, err := c.s.Ops.Run(ctx, op, raw)
	if err != nil {
		return r, err
	}
	r, ok := v.(R)
	if !ok {
		return r, fault.Newf(fault.Internal, "%s: the result is a %T", op, v)
	}
	return r, nil
}

type object = map[string]any

// reply is a success.
func reply(body any, err error) (int, any, error) { return http.StatusOK, body, err }

// required refuses an empty field.
func required(name, value string) error {
	if strings.TrimSpace(value) == "" {
		return fault.Newf(fault.Invalid, "%s is required", name)
	}
	return nil
}

// pages is how a client asks for a part of a list. Without it lists are whole.
type pages struct {
	Limit  int    `json:"limit"`
	Offset int    `json:"offset"`
	Query  string `json:"query"`
	Sort   string `json:"sort"` // a field; "-" before it turns the order round
}

// part picks a part of a list. name is what a query looks into; orders are the
// fields that it can be sorted by. total counts what the query finds.
func part[T any](list []T, p pages, name func(T) string, orders map[string]func(a, b T) int) (some []T, total int, err error) {
	if p.Query != "" {
		query := strings.ToLower(p.Query)
		list = slices.DeleteFunc(slices.Clone(list), func(x T) bool { return !strings.Contains(strings.ToLower(name(x)), query) })
	}
	if field := strings.TrimPrefix(p.Sort, "-"); field != "" {
		order, ok := orders[field]
		if !ok {
			return nil, 0, fault.Newf(fault.Invalid, "cannot sort by %.40q", field)
		}
		list = slices.Clone(list)
		slices.SortStableFunc(list, order)
		if strings.HasPrefix(p.Sort, "-") {
			slices.Reverse(list)
		}
	}
	total = len(list)
	if p.Offset < 0 || p.Limit < 0 {
		return nil, 0, fault.New(fault.Invalid, "limit and offset count from 0")
	}
	list = list[min(p.Offset, total):]
	if p.Limit > 0 {
		list = list[:min(p.Limit, len(list))]
	}
	return listed(list), total, nil
}

// clock prints a number of seconds as pages show it: "1d 2h 3m 4s".
func clock(seconds int64) string {
	d, h, m, s := seconds/86400, seconds/3600%24, seconds/60%60, seconds%60
	switch {
	case d > 0:
		return fmt.Sprintf("%dd %dh %dm %ds", d, h, m, s)
	case h > 0:
		return fmt.Sprintf("%dh %dm %ds", h, m, s)
	}
	return fmt.Sprintf("%dm %ds", m, s)
}
