package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"math/big"
	"strconv"
	"strings"
	"sync"
	"time"

	"limpet/auth"
)

// DefaultTokenTTL is how long a simple token that is not used lives.
const DefaultTokenTTL = 5 * time.Minute

// Simple are the simple tokens that this member knows: all that were issued
// since it started. All methods may be called concurrently.
type Simple struct {
	ttl  time.Duration
	wait func(ctx context.Context, index uint64) error

	// mu guards the rest.
	mu    sync.Mutex
	users map[string]*holder // by digest
	swept time.Time
}

type holder struct {
	user string
	ends time.Time
}

// NewSimple returns an empty set; wait returns once this member has applied an
// index of the log. A ttl of 0 is the default.
func NewSimple(ttl time.Duration, wait func(ctx context.Context, index uint64) error) *Simple {
	if ttl <= 0 {
		ttl = DefaultTokenTTL
	}
	return &Simple{ttl: ttl, wait: wait, users: make(map[string]*holder)}
}

// Change takes over changes in their order.
func (t *Simple) Change(changes []auth.TokenChange) {
	if len(changes) == 0 {
		return
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweepLocked(now)
	for _, c := range changes {
		if c.Token != "" {
			t.users[c.Token] = &holder{c.User, now.Add(t.ttl)}
			continue
		}
		maps.DeleteFunc(t.users, func(_ string, h *holder) bool { return c.User == "" || h.user == c.User })
	}
}

// sweepLocked forgets tokens whose time is up, now and then: logins make them, and
// logins call it.
func (t *Simple) sweepLocked(now time.Time) {
	if now.Sub(t.swept) < t.ttl/2 {
		return
	}
	t.swept = now
	maps.DeleteFunc(t.users, func(_ string, h *holder) bool { return now.After(h.ends) })
}

// Caller tells whose token it is; using it makes it last. A token that this member
// has not heard of yet is waited for until ctx ends.
func (t *Simple) Caller(ctx context.Context, token string, rules *auth.Rules) (auth.Caller, error) {
	prefix, index, ok := strings.Cut(token, ".")
	n, err := strconv.ParseUint(index, 10, 64)
	if !ok || err != nil {
		return auth.Caller{}, auth.ErrInvalidToken
	}
	// The rules are those from before, so that what changes meanwhile is noticed.
	if err := t.wait(ctx, n); err != nil {
		return auth.Caller{}, auth.ErrInvalidToken
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.users[Digest(prefix)+"."+index]
	if h == nil || now.After(h.ends) {
		return auth.Caller{}, auth.ErrInvalidToken
	}
	h.ends = now.Add(t.ttl)
	return auth.Caller{User: h.user, Revision: rules.Revision()}, nil
}

// prefixLetters and prefixLength are etcd's: 91 bits.
const (
	prefixLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	prefixLength  = 16
)

// Digest is what members keep, and the log says, of a token's prefix: whoever reads
// them cannot make the token of it.
func Digest(prefix string) string {
	sum := sha256.Sum256([]byte(prefix))
	return hex.EncodeToString(sum[:])
}

// NewPrefix returns the secret part of a simple token.
func NewPrefix() string {
	b := make([]byte, prefixLength)
	for i := range b {
		n, _ := rand.Int(rand.Reader, big.NewInt(int64(len(prefixLetters)))) // never fails
		b[i] = prefixLetters[n.Int64()]
	}
	return string(b)
}
