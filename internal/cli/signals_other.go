//go:build !unix

package cli

import (
	"context"
	"errors"
	"os"

	"madmail/internal/app"
)

var moreSignals []os.Signal

func hangUp(int) error { return errors.ErrUnsupported }

func (s *shell) react(context.Context, *app.App, os.Signal) {}
