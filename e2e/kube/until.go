package kube

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollInterval is how often a condition is looked at: often enough not to make
// stories long, seldom enough not to be a load on two cores.
const pollInterval = 50 * time.Millisecond

// errExited is what a program that has ended reports: it will not come back by
// waiting.
var errExited = errors.New("has exited")

// Until asks met again and again until it returns nil. After the deadline, or
// when ctx ends, it returns met's last error: what was still wrong. It does not
// wait for a program that has exited.
func Until(ctx context.Context, deadline time.Duration, met func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		err := met(ctx)
		if err == nil || errors.Is(err, errExited) {
			return err
		}
		// An error that only says that time is up must not hide the reason.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", deadline, last)
		case <-ticker.C:
		}
	}
}
