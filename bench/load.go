package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// load is a closed loop: each worker sends its next request when the last one is answered.
type load struct {
	workers int
	warm    time.Duration // before measuring
	window  time.Duration // measured
	op      func(ctx context.Context, worker, n int) error
	opened  func() error // called when the window opens
	closed  func() error // called when it has closed, before the last answers are in
}

// loadResult is what a load gave.
type loadResult struct {
	ops       int             // answered inside the window
	late      int             // sent inside it, answered after; the server paid for these too
	window    time.Duration   // as it really was
	latencies []time.Duration // of ops, in no order
}

func (r loadResult) rate() float64 { return float64(r.ops) / r.window.Seconds() }

// The phases of a load, in order.
const (
	warming int32 = iota
	measuring
	finished
)

// run drives the load; the first failed request ends it.
func (l load) run(ctx context.Context) (loadResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		phase atomic.Int32
		wg    sync.WaitGroup
		parts = make([]loadResult, l.workers) // one each, read after wg.Wait
	)
	for w := range l.workers {
		wg.Go(func() { // ends with the phase finished, or with the first failure of any worker
			part := &parts[w]
			for n := 0; phase.Load() != finished; n++ {
				began := time.Now()
				if err := l.op(ctx, w, n); err != nil {
					cancel(err)
					return
				}
				switch phase.Load() {
				case measuring:
					part.ops++
					part.latencies = append(part.latencies, time.Since(began))
				case finished:
					part.late++
				}
			}
		})
	}
	result, err := l.conduct(ctx, &phase)
	if err != nil {
		cancel(err)
	}
	phase.Store(finished)
	wg.Wait()
	for _, part := range parts {
		result.ops += part.ops
		result.late += part.late
		result.latencies = append(result.latencies, part.latencies...)
	}
	if cause := context.Cause(ctx); cause != nil {
		return result, cause
	}
	return result, nil
}

// conduct leads the workers through the phases.
func (l load) conduct(ctx context.Context, phase *atomic.Int32) (loadResult, error) {
	if err := sleep(ctx, l.warm); err != nil {
		return loadResult{}, err
	}
	if err := l.opened(); err != nil {
		return loadResult{}, err
	}
	began := time.Now()
	phase.Store(measuring)
	err := sleep(ctx, l.window)
	phase.Store(finished)
	r := loadResult{window: time.Since(began)}
	if err != nil {
		return r, err
	}
	return r, l.closed()
}

// sleep waits d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
