package login

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"

	"limpet/auth"
)

// shown are the passwords that were right lately, one for each user: not as they
// are, but as what a key makes of them that dies with the process. All methods
// may be called concurrently.
//
// Invariant: a sum speaks for one bcrypt hash, for which bcrypt has said yes.
// There is nothing to forget when a password changes or a user goes: the rules
// have that hash no more.
type shown struct {
	key [sha256.Size]byte

	mu   sync.Mutex // guards sums and, with them, how often may be guessed; before limit.mu
	sums map[string]shownSum
}

type shownSum struct {
	hash string
	sum  [sha256.Size]byte // of the password
}

// maxShown is how many users are remembered.
const maxShown = 1024

func newShown() *shown {
	s := &shown{sums: make(map[string]shownSum)}
	_, _ = rand.Read(s.key[:]) // never fails
	return s
}

func (s *shown) sum(password string) (out [sha256.Size]byte) {
	m := hmac.New(sha256.New, s.key[:])
	m.Write([]byte(password))
	m.Sum(out[:0])
	return out
}

// keep remembers a password that was right.
func (s *shown) keep(name string, hash []byte, password string) {
	kept := shownSum{string(hash), s.sum(password)}
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range s.sums {
		if len(s.sums) < maxShown {
			break
		}
		delete(s.sums, other) // any
	}
	s.sums[name] = kept
}

// verdict is what is known of a password without bcrypt.
type verdict int

const (
	unknown verdict = iota
	right
	wrong // and counted as a failure
)

// again compares a password with the one that is remembered. Whoever shows
// another one has failed at once, and not when bcrypt has said so: many might be
// guessing meanwhile, and this answers faster than any hash.
func (s *shown) again(l *limit, now time.Time, host, name string, hash []byte, password string) (verdict, error) {
	sum := s.sum(password)
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, ok := s.sums[name]
	switch {
	case !ok || kept.hash != string(hash):
		return unknown, nil
	case !l.allowed(host, name, now):
		return unknown, ErrTooMany
	case hmac.Equal(sum[:], kept.sum[:]):
		return right, nil
	}
	l.failed(host, name, now)
	return wrong, nil
}

// CheckOften is Check for those who show their password with each request: one
// that was right costs bcrypt's work only once. One that is wrong takes as long as
// ever.
func (p *Passwords) CheckOften(ctx context.Context, rules *auth.Rules, host, name, password string) (revision uint64, err error) {
	u := rules.User(name)
	if !rules.Enabled() || u == nil || u.NoPassword {
		return p.Check(ctx, rules, host, name, password)
	}
	password = password[:min(len(password), MaxPassword)] // what bcrypt looks at
	known, err := p.shown.again(p.turns.limit, time.Now(), source(host), name, u.Hash, password)
	if err != nil || known == right {
		return rules.Revision(), err
	}
	revision, err = p.check(ctx, rules, host, name, password, known == wrong)
	if err == nil {
		p.shown.keep(name, u.Hash, password)
	}
	return revision, err
}
