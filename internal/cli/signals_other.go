//go:build !unix

package cli

import (
	"context"
	"os"

	"madmail/internal/app"
)

var moreSignals []os.Signal

func (s *shell) react(context.Context, *app.App, os.Signal) {}
