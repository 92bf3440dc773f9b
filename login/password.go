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

// MaxPassword is what bcrypt looks at, in bytes.
const MaxPassword = 72

// ErrTooMany: too many logins have failed, from where this one comes.
var ErrTooMany = errors.New("login: too many failed logins")

// Passwords makes and compares hashes, one at a time: on a small board each takes
// a good part of a second of one core, which others need, too. All methods may be
// called concurrently.
type Passwords struct {
	cost  int
	turns turns
	shown *shown

	mu     sync.Mutex // guards decoys
	decoys map[int][]byte
}

// NewPasswords returns one that hashes at a cost from MinCost to MaxCost.
func NewPasswords(cost int) *Passwords {
	return &Passwords{cost: cost, turns: turns{limit: newLimit()}, shown: newShown(), decoys: make(map[int][]byte)}
}

// TooLong reports bcrypt's error for a password beyond its 72 bytes.
func TooLong(password string) error {
	if len(password) > MaxPassword {
		return bcrypt.ErrPasswordTooLong
	}
	return nil
}

// Hash returns a password's hash as etcd's requests carry it, in base64, for
// somebody at host. It waits for its turn until ctx ends.
func (p *Passwords) Hash(ctx context.Context, host, password string) (string, error) {
	if err := p.turns.take(ctx, source(host)); err != nil {
		return "", err
	}
	defer p.turns.give()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), p.cost)
	return base64.StdEncoding.EncodeToString(hash), err
}

// Check returns the rules' revision under which name has this password;
// auth.ErrFailed if not, auth.ErrNoPasswordUser if the user has none, and
// ErrTooMany if host has failed too often. It takes as long for a user that does
// not exist.
func (p *Passwords) Check(ctx context.Context, rules *auth.Rules, host, name, password string) (revision uint64, err error) {
	return p.check(ctx, rules, host, name, password, false)
}

// check is Check; counted: as a failure, already.
func (p *Passwords) check(ctx context.Context, rules *auth.Rules, host, name, password string, counted bool) (revision uint64, err error) {
	u := rules.User(name)
	switch {
	case !rules.Enabled():
		return 0, auth.ErrNotEnabled
	case u != nil && u.NoPassword:
		return 0, auth.ErrNoPasswordUser
	}
	host = source(host)
	if err := p.turns.take(ctx, host); err != nil {
		return 0, err
	}
	defer p.turns.give()
	limit := p.turns.limit
	// Asked in turn, as many may be guessing at once.
	if !counted && !limit.allowed(host, name, time.Now()) {
		return 0, ErrTooMany
	}
	hash := p.decoy(rules)
	if u != nil {
		hash = u.Hash
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || u == nil {
		if !counted {
			limit.failed(host, name, time.Now())
		}
		return 0, auth.ErrFailed
	}
	return rules.Revision(), nil
}

// decoy is a hash for a user that does not exist, of the cost that root's has:
// others will have been made with the same.
func (p *Passwords) decoy(rules *auth.Rules) []byte {
	cost := p.cost
	if root := rules.User(auth.Root); root != nil {
		if c, err := bcrypt.Cost(root.Hash); err == nil {
			cost = c
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.decoys[cost] == nil {
		p.decoys[cost], _ = bcrypt.GenerateFromPassword([]byte(NewPrefix()), cost) // the cost is that of a hash
	}
	return p.decoys[cost]
}
