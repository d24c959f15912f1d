// Command madmail is a complete mail server for Delta Chat, and the tool that
// manages it.
package main

import (
	"os"
	"runtime"

	"madmail/internal/cli"
	"madmail/internal/heap"
)

func main() {
	// A goroutine that waits for the disk keeps its scheduler slot for a while.
	// With a single slot everybody else waits too: four slots make a server on
	// one CPU up to four times as fast (docs/decisions/0013-gomaxprocs.md).
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < 4 {
		runtime.GOMAXPROCS(4)
	}
	heap.Pace() // docs/decisions/0015-garbage.md
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
