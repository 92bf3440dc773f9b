package login

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Whoever fails to log in may try again so often at once, and so often a second
// after: people mistype, programs with an old password do not stop.
const (
	triesAtOnce   = 50
	triesASecond  = 0.5
	hostFactor    = 5 // a host may fail that much more: it may have many users
	maxRemembered = 4096
)

// Limit slows down guessing. It counts failures by where they come from, so that
// nobody can lock out a user from elsewhere. All methods may be called
// concurrently.
type Limit struct {
	// mu guards failed.
	mu     sync.Mutex
	failed map[string]*rate.Limiter
}

// NewLimit returns one that has seen no failure.
func NewLimit() *Limit { return &Limit{failed: make(map[string]*rate.Limiter)} }

// Allowed reports whether somebody at host may try to be user now.
func (l *Limit) Allowed(host, user string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key := range buckets(host, user) {
		if b := l.failed[key]; b != nil && b.TokensAt(now) < 1 {
			return false
		}
	}
	return true
}

// Failed notes that somebody at host was not user.
func (l *Limit) Failed(host, user string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLocked(now)
	for key, factor := range buckets(host, user) {
		b := l.failed[key]
		if b == nil {
			b = rate.NewLimiter(rate.Limit(triesASecond*factor), int(triesAtOnce*factor))
			l.failed[key] = b
		}
		b.AllowN(now, 1)
	}
}

func buckets(host, user string) map[string]float64 {
	return map[string]float64{host + "\x00" + user: 1, host: hostFactor}
}

// forgetLocked makes room: first what has been quiet for long, then anything.
func (l *Limit) forgetLocked(now time.Time) {
	if len(l.failed) < maxRemembered {
		return
	}
	for key, b := range l.failed {
		if b.TokensAt(now) >= float64(b.Burst()) {
			delete(l.failed, key)
		}
	}
	for key := range l.failed {
		if len(l.failed) < maxRemembered {
			return
		}
		delete(l.failed, key)
	}
}
