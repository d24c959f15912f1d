package inlet

import (
	"errors"
	"net"
	"time"
)

// Accept hands every connection of l to serve, until l is closed or, after an error,
// stopping says that it is to end. Other errors are told to trouble, and it is tried
// again: descriptors have run out, most likely, and others must end first.
func Accept(l net.Listener, stopping func() bool, trouble func(error), serve func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err == nil {
			serve(conn)
			continue
		}
		var ne net.Error
		switch {
		case errors.As(err, &ne) && ne.Timeout():
		case errors.Is(err, net.ErrClosed) || stopping():
			return
		default:
			trouble(err)
			time.Sleep(50 * time.Millisecond)
		}
	}
}
