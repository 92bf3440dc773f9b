package login

import (
	"crypto/sha256"
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

// limit slows down guessing. It counts failures by where they come from, so that
// nobody can lock out a user from elsewhere. All methods may be called
// concurrently.
type limit struct {
	mu      sync.Mutex // guards buckets
	buckets map[string]*rate.Limiter
}

func newLimit() *limit { return &limit{buckets: make(map[string]*rate.Limiter)} }

// allowed reports whether somebody at host may try to be user now.
func (l *limit) allowed(host, user string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key := range keys(host, user) {
		if b := l.buckets[key]; b != nil && b.TokensAt(now) < 1 {
			return false
		}
	}
	return true
}

// suspects reports whether somebody at host has failed lately.
func (l *limit) suspects(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[host]
	return b != nil && b.TokensAt(time.Now()) < float64(b.Burst())
}

// failed notes that somebody at host was not user.
func (l *limit) failed(host, user string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLocked(now)
	for key, factor := range keys(host, user) {
		b := l.buckets[key]
		if b == nil {
			b = rate.NewLimiter(rate.Limit(triesASecond*factor), int(triesAtOnce*factor))
			l.buckets[key] = b
		}
		b.AllowN(now, 1)
	}
}

// keys are the buckets of somebody at host who wants to be user. A name may be
// long, and is not kept.
func keys(host, user string) map[string]float64 {
	sum := sha256.Sum256([]byte(user))
	return map[string]float64{host + "\x00" + string(sum[:]): 1, host: hostFactor}
}

// forgetLocked makes room for a while: first what has been quiet for long goes,
// then anything.
func (l *limit) forgetLocked(now time.Time) {
	if len(l.buckets) < maxRemembered {
		return
	}
	for key, b := range l.buckets {
		if b.TokensAt(now) >= float64(b.Burst()) {
			delete(l.buckets, key)
		}
	}
	for key := range l.buckets {
		if len(l.buckets) <= maxRemembered/2 {
			return
		}
		delete(l.buckets, key)
	}
}
