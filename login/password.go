package login

import (
	"context"
	"encoding/base64"
	"errors"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"limpet/auth"
)

// Bounds of bcrypt's cost: each step doubles the work.
const (
	MinCost     = bcrypt.MinCost
	MaxCost     = bcrypt.MaxCost
	DefaultCost = bcrypt.DefaultCost
)

// maxPassword is what bcrypt looks at, in bytes.
const maxPassword = 72

// ErrTooMany: too many logins have failed, from where this one comes.
var ErrTooMany = errors.New("login: too many failed logins")

// Passwords makes and compares hashes, one at a time: on a small board each takes
// a good part of a second of one core, which others need, too. All methods may be
// called concurrently.
type Passwords struct {
	cost  int
	turn  chan struct{}
	limit *limit
	// decoy has a hash for users that do not exist.
	decoy func() []byte
}

// NewPasswords returns one that hashes at a cost from MinCost to MaxCost.
func NewPasswords(cost int) *Passwords {
	return &Passwords{cost: cost, turn: make(chan struct{}, 1), limit: newLimit(), decoy: sync.OnceValue(func() []byte {
		hash, _ := bcrypt.GenerateFromPassword([]byte(NewPrefix()), cost) // the cost was checked
		return hash
	})}
}

// TooLong reports bcrypt's error for a password beyond its 72 bytes.
func TooLong(password string) error {
	if len(password) > maxPassword {
		return bcrypt.ErrPasswordTooLong
	}
	return nil
}

// Hash returns a password's hash as etcd's requests carry it, in base64. It waits
// for its turn until ctx ends.
func (p *Passwords) Hash(ctx context.Context, password string) (string, error) {
	if err := p.wait(ctx); err != nil {
		return "", err
	}
	defer p.done()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), p.cost)
	return base64.StdEncoding.EncodeToString(hash), err
}

// Check returns the rules' revision under which name has this password;
// auth.ErrFailed if not, auth.ErrNoPasswordUser if the user has none, and
// ErrTooMany if host has failed too often. It takes as long for a user that does
// not exist.
func (p *Passwords) Check(ctx context.Context, rules *auth.Rules, host, name, password string) (revision uint64, err error) {
	u := rules.User(name)
	switch {
	case !rules.Enabled():
		return 0, auth.ErrNotEnabled
	case u != nil && u.NoPassword:
		return 0, auth.ErrNoPasswordUser
	}
	if err := p.wait(ctx); err != nil {
		return 0, err
	}
	defer p.done()
	// Asked in turn, as many may be guessing at once.
	if !p.limit.allowed(host, name, time.Now()) {
		return 0, ErrTooMany
	}
	hash := p.decoy()
	if u != nil {
		hash = u.Hash
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || u == nil {
		p.limit.failed(host, name, time.Now())
		return 0, auth.ErrFailed
	}
	return rules.Revision(), nil
}

func (p *Passwords) wait(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Passwords) done() { <-p.turn }
