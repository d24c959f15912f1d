package turnserver

import (
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// loggers gives the library loggers. Its own would write to standard output,
// with the addresses of clients.
type loggers struct {
	log     *slog.Logger
	verbose bool
}

// NewLogger returns a logger that is silent unless somebody looks for trouble.
func (l loggers) NewLogger(string) logging.LeveledLogger { return logger(l) }

type logger loggers

func (l logger) say(text string) {
	if l.verbose {
		l.log.Debug("turn", "library", text)
	}
}

func (l logger) sayf(format string, args ...any) {
	if l.verbose {
		l.log.Debug("turn", "library", fmt.Sprintf(format, args...))
	}
}

func (l logger) Trace(string)                      {}
func (l logger) Tracef(string, ...any)             {}
func (l logger) Debug(text string)                 { l.say(text) }
func (l logger) Debugf(format string, args ...any) { l.sayf(format, args...) }
func (l logger) Info(text string)                  { l.say(text) }
func (l logger) Infof(format string, args ...any)  { l.sayf(format, args...) }
func (l logger) Warn(text string)                  { l.say(text) }
func (l logger) Warnf(format string, args ...any)  { l.sayf(format, args...) }
func (l logger) Error(text string)                 { l.say(text) }
func (l logger) Errorf(format string, args ...any) { l.sayf(format, args...) }
