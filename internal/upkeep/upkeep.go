// Package upkeep runs the jobs that keep the house in order: flushing
// counters, measuring accounts, retention. It knows when a job runs and who
// waits for it; what a job does is handed to it.
package upkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"madmail/internal/fault"
	"madmail/internal/task"
)

// Job is something done again and again.
type Job struct {
	Name  string
	Every time.Duration
	// Run does the work once. Its context ends when the scheduler stops or
	// after Limit.
	Run func(ctx context.Context) error
	// Limit bounds one run; 0 means Every, at least a minute.
	Limit time.Duration
	// AtStop makes Stop run the job a last time, after everybody else ended.
	AtStop bool
}

// Scheduler runs jobs, each in a goroutine of its own, never two runs of one
// job at a time. Make one with New.
type Scheduler struct {
	log  *slog.Logger
	jobs []*slot

	group  task.Group
	mu     sync.Mutex // guards the fields below
	cancel context.CancelFunc
	done   bool
}

type slot struct {
	Job
	running sync.Mutex // held during a run
}

// New checks the jobs and returns a scheduler that is not started.
func New(log *slog.Logger, jobs ...Job) (*Scheduler, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Scheduler{log: log}
	seen := make(map[string]bool)
	for _, j := range jobs {
		switch {
		case j.Name == "" || j.Run == nil:
			return nil, errors.New("upkeep: a job needs a name and a function")
		case seen[j.Name]:
			return nil, fmt.Errorf("upkeep: two jobs are called %s", j.Name)
		case j.Every <= 0:
			return nil, fmt.Errorf("upkeep: job %s: interval %v is not positive", j.Name, j.Every)
		}
		seen[j.Name] = true
		if j.Limit == 0 {
			j.Limit = max(j.Every, time.Minute)
		}
		s.jobs = append(s.jobs, &slot{Job: j})
	}
	s.group.Panicked = func(name string, v any, stack []byte) {
		log.Error("a job panicked and will not run again", "job", name, "panic", fmt.Sprint(v), "stack", string(stack))
	}
	return s, nil
}

// Start begins the rounds. The first run of each job is one interval away.
func (s *Scheduler) Start(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil || s.done {
		return errors.New("upkeep: started twice")
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	for _, j := range s.jobs {
		s.group.Go(j.Name, func() { s.rounds(ctx, j) })
	}
	return nil
}

func (s *Scheduler) rounds(ctx context.Context, j *slot) {
	tick := time.NewTicker(j.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if ctx.Err() != nil {
				return // both were ready
			}
			if err := j.run(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("job failed", "job", j.Name, "err", err)
			}
		}
	}
}

func (j *slot) run(ctx context.Context) error {
	j.running.Lock()
	defer j.running.Unlock()
	ctx, cancel := context.WithTimeout(ctx, j.Limit)
	defer cancel()
	return j.Run(ctx)
}

// RunNow runs a job at once and waits for it, also when the scheduler is not
// started. The error is of kind fault.NotFound for a name it does not know.
func (s *Scheduler) RunNow(ctx context.Context, name string) error {
	for _, j := range s.jobs {
		if j.Name == name {
			return j.run(ctx)
		}
	}
	return fault.Newf(fault.NotFound, "unknown task %q", name)
}

// Stop ends the rounds, waits for running jobs until ctx ends, and runs the
// jobs marked AtStop once more. It may be called twice and before Start.
func (s *Scheduler) Stop(ctx context.Context) error {
	s.mu.Lock()
	first := !s.done
	s.done = true
	if s.cancel != nil {
		s.cancel()
	}
	s.mu.Unlock()
	errs := []error{s.group.Wait(ctx)}
	if first {
		for _, j := range s.jobs {
			if j.AtStop {
				errs = append(errs, j.run(ctx))
			}
		}
	}
	return errors.Join(errs...)
}
