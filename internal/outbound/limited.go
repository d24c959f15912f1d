package outbound

import (
	"context"
	"time"

	"madmail/internal/throttle"
)

// turnTime is how long a letter waits for its turn.
const turnTime = 30 * time.Second

// Limited lets letters go by t only as limits allow: in all, by the domain of the
// sender, and by that of the recipients. Who waits in vain is tried later.
func Limited(t Transport, limits *throttle.Throttle) Transport {
	if limits == nil {
		return t
	}
	return limited{t, limits}
}

type limited struct {
	Transport
	limits *throttle.Throttle
}

// Deliver implements Transport.
func (l limited) Deliver(ctx context.Context, t Target, letter *Letter) []Outcome {
	wait, cancel := context.WithTimeout(ctx, turnTime)
	defer cancel()
	for _, x := range []struct {
		scope throttle.Scope
		who   string
	}{{throttle.All, ""}, {throttle.Source, string(letter.From.Domain())}, {throttle.Destination, string(t.Domain)}} {
		end, err := l.limits.Wait(wait, x.scope, x.who)
		if err != nil {
			return Every(letter, Outcome{Result: Later, Status: "4.4.5", Reply: "the limits of this server for mail to others are reached"})
		}
		defer end()
	}
	return l.Transport.Deliver(ctx, t, letter)
}
