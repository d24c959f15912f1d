package webimap

import (
	"encoding/json"
	"net/http"

	"madmail/internal/fault"
)

// refusal is an answer to what was not done. code is the reply of SMTP that says the
// same, for messages that were not taken.
type refusal struct {
	status int
	text   string
	code   string
}

func (x *refusal) Error() string { return x.text }

// wrong is the one answer to a wrong password, a blocked account and one that is not
// there.
var wrong = refusal{http.StatusUnauthorized, "invalid credentials", ""}

func refuse(w http.ResponseWriter, x refusal) {
	if x.status == http.StatusTooManyRequests || x.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "60")
	}
	answer(w, x.status, struct {
		Error string `json:"error"`
		Code  string `json:"code,omitempty"`
	}{x.text, x.code})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	refuse(w, refusal{http.StatusNotFound, "not found", ""})
}

// stage is where an error came up.
type stage uint8

const (
	reading stage = iota
	atRecipient
	atMessage
)

// replies are those of SMTP (RFC 5321 section 4.2, RFC 3463) for messages that were
// not taken, and the status that fits.
var replies = map[fault.Kind]struct {
	status int
	code   string
}{
	fault.Invalid:     {http.StatusBadRequest, "500 5.6.0"},
	fault.Denied:      {http.StatusUnauthorized, "535 5.7.8"},
	fault.Refused:     {http.StatusForbidden, "554 5.7.1"},
	fault.Unencrypted: {http.StatusForbidden, "523 5.7.1"},
	fault.NotFound:    {http.StatusBadRequest, "550 5.1.1"}, // not 404: the route is there
	fault.Exists:      {http.StatusBadRequest, "554 5.5.0"},
	fault.TooBig:      {http.StatusRequestEntityTooLarge, "552 5.3.4"},
	fault.Full:        {http.StatusInsufficientStorage, "552 5.2.2"},
	fault.Busy:        {http.StatusServiceUnavailable, "451 4.3.2"},
	fault.Internal:    {http.StatusInternalServerError, "451 4.3.0"},
}

// statuses are those of everything else.
var statuses = map[fault.Kind]int{
	fault.Invalid: http.StatusBadRequest, fault.Denied: http.StatusUnauthorized, fault.Refused: http.StatusForbidden, fault.Unencrypted: http.StatusForbidden,
	fault.NotFound: http.StatusNotFound, fault.Exists: http.StatusConflict, fault.TooBig: http.StatusRequestEntityTooLarge, fault.Full: http.StatusInsufficientStorage,
	fault.Busy: http.StatusServiceUnavailable, fault.Internal: http.StatusInternalServerError,
}

// refusal turns an error of the flows into an answer. It is the one place that knows
// both. The text is one line and safe for users.
func (h *Handler) refusal(err error, at stage) refusal {
	if x, ok := err.(*refusal); ok {
		return *x
	}
	k, text := fault.KindOf(err), fault.UserText(err)
	switch k {
	case fault.Internal:
		h.Logger.Error("a request failed", "err", err)
	case fault.Busy:
		if hint := fault.HintOf(err); hint != "" {
			h.Logger.Warn("a request was put off", "err", err, "hint", hint)
		}
	}
	if at == reading {
		return refusal{statuses[k], text, ""}
	}
	r := replies[k]
	if k == fault.Refused && at == atRecipient {
		r.code = "550 5.7.1"
	}
	return refusal{r.status, text, r.code}
}

// no is a refusal of what a client asked for.
func no(status int, text string) *refusal { return &refusal{status, text, ""} }

var (
	errUnknownBox   = no(http.StatusBadRequest, "unknown mailbox")
	errNoMessage    = no(http.StatusNotFound, "message not found")
	errInvalidJSON  = no(http.StatusBadRequest, "invalid JSON")
	errTooLong      = no(http.StatusRequestEntityTooLarge, "request too long")
	errBadOp        = no(http.StatusBadRequest, "invalid op: must be add, remove, or set")
	errBadFlags     = no(http.StatusBadRequest, "invalid flags")
	errNoUID        = no(http.StatusBadRequest, "uid is required")
	errTooSlow      = no(http.StatusRequestTimeout, "the request comes too slowly")
	errCut          = no(http.StatusBadRequest, "the request was cut off")
	errNoRecipients = &refusal{http.StatusBadRequest, "missing recipients", "503 5.5.1"}
	errNoBody       = &refusal{http.StatusBadRequest, "missing body", "500 5.6.0"}
	errBadBase64    = &refusal{http.StatusBadRequest, "body_base64 is not base64", "500 5.6.0"}
	errTwoBodies    = &refusal{http.StatusBadRequest, "more than one body", "500 5.6.0"}
	errTooBig       = &refusal{http.StatusRequestEntityTooLarge, "Message exceeds maximum size", "552 5.3.4"}
	errSendOff      = no(http.StatusNotFound, "send is not enabled")
)
